"""`python -m hack.bench`: what dispatching costs, beside the built-in controller on the same planes.

Read in this order: workload.py (the Jobs), timeline.py (what is timed), run.py (one run), audit.py and usage.py
(what it cost), report.py (figures, table, JSON).
"""
