"""Plays pods as their annotation `lab.jobdispatcher.io/script` says (a kubelet of make-believe)."""
