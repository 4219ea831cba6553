"""A dispatcher running on a lab, and watches on both: what the demo and the measurements have in common."""

from hack.running.controller import Controller, ControllerFailed
from hack.running.labs import temporary_lab
from hack.running.watched import ClusterJobs

__all__ = ["ClusterJobs", "Controller", "ControllerFailed", "temporary_lab"]
