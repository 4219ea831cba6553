"""Differential conformance: each scenario runs by the built-in Job controller and dispatched, and must end the same.

Read in this order: scenarios/*.yaml (what is tried), scenario.py (their form), run.py (one run of one side),
snapshot.py (what is compared), differential.py (both sides meet), suite.py (all of them), report.py.
"""
