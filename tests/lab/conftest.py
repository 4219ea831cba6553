"""A namespace of its own on a worker of the session's lab."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hack.lab import Lab
from tests.lab.jobs import NAMESPACE, Jobs, eventually


@pytest.fixture(scope="session")
def jobs(lab: Lab) -> Iterator[Jobs]:
    plane = lab.worker(3)
    plane.api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    account = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
    eventually(lambda: plane.api.get(account)["items"], bool)
    yield Jobs(plane)
    plane.api.delete(f"/api/v1/namespaces/{NAMESPACE}")
