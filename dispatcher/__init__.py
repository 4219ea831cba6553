"""Job Dispatcher: runs one Kubernetes Job split over several clusters.

The package, from the inside out:

* :mod:`dispatcher.core` decides. Pure functions on records; no I/O, no clock, no client.
* :mod:`dispatcher.clusters` talks to API servers: credentials, requests, watches, caches.
* :mod:`dispatcher.operator` carries decisions out and wires the process together with kopf.
* :mod:`dispatcher.commands` is the command line.
"""

__version__ = "0.1.0"
