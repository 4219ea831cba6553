"""`python -m hack.chaos`: Jobs of all kinds on real planes while their parts are killed, stopped, cut off and lied to.

Read in this order: workload.py (the Jobs and how each must end), faults.py (what is done, when), scene.py (the planes
with proxies in between), injector.py (doing it), records.py (what ran), checks.py (what must hold), run.py, report.py.
"""
