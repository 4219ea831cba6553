"""The fake nodes of a plane: few and big, so that thousands of pods fit."""

from __future__ import annotations

from typing import Any

from hack.lab.api import Api

CAPACITY = {"cpu": "1000", "memory": "4Ti", "ephemeral-storage": "10Ti", "pods": "2000"}


def node(name: str) -> dict[str, Any]:
    """A Node that kwok takes care of (by the annotation)."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {"kwok.x-k8s.io/node": "fake"},
            "labels": {
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "node.kubernetes.io/instance-type": "kwok",
                "type": "kwok",
            },
        },
        "status": {"allocatable": CAPACITY, "capacity": CAPACITY},
    }


def create(api: Api, *, plane: str, count: int) -> None:
    """Registers the nodes PLANE-node-1, …"""
    for number in range(1, count + 1):
        api.create("/api/v1/nodes", node(f"{plane}-node-{number}"))


def are_ready(api: Api, *, count: int) -> bool:
    """Whether that many nodes would take pods: ready, and without the taints of a node that is not."""
    ready = 0
    for item in api.get("/api/v1/nodes")["items"]:
        conditions = {entry["type"]: entry["status"] for entry in item["status"].get("conditions", [])}
        ready += conditions.get("Ready") == "True" and not item["spec"].get("taints")
    return ready >= count
