"""Local control planes: real etcd, API servers, controller-managers and schedulers, with kwok nodes.

Read in this order: lab.py (a lab), plane.py (one control plane), components.py (the command lines), component.py
(one process as tests handle it), registration.py (accounts, CRDs, WorkerClusters), scripter/ (pods that act by script),
binaries.py (where the programs come from), kubelet/ (real nodes).
"""

from hack.lab.component import Component, ComponentFailed
from hack.lab.lab import Lab, LabError
from hack.lab.plane import Plane

__all__ = ["Component", "ComponentFailed", "Lab", "LabError", "Plane"]
