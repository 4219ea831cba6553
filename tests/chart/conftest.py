"""helm, and control planes without anything of ours, on which the charts are installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.lab import Lab
from hack.lab.binaries import DEFAULT_KUBERNETES, provide


@pytest.fixture(scope="session")
def helm_program() -> Path:
    """helm as the lab uses it."""
    return provide(DEFAULT_KUBERNETES, report=print).helm


def stand_in(kind: str) -> dict[str, Any]:
    """A CRD of the Prometheus operator's that takes everything."""
    group, plural = "monitoring.coreos.com", f"{kind.lower()}s"
    open_schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": open_schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "versions": [version],
        },
    }


@pytest.fixture(scope="package")
def bare_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One management and two worker control planes that know nothing of the dispatcher.

    JOB_DISPATCHER_TEST_BARE_LAB names a folder for a lab that is kept, and taken again by the next session.
    """
    kept = os.environ.get("JOB_DISPATCHER_TEST_BARE_LAB")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("bare-lab")
    running = Lab.up(folder, workers=2, bare=True)
    try:
        for kind in ("ServiceMonitor", "PrometheusRule"):
            running.management.api.apply(stand_in(kind))
        yield running
    finally:
        if not kept:
            running.down()
