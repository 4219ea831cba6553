"""The aggregated API ``view.jobdispatcher.io``: pods, Events and logs of mirrors, with the reader's own identity."""
