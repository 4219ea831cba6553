"""How long people wait: the start of the plugin, and a list of many Jobs."""

import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dispatcher.commands.connection import Connection
from dispatcher.core.names import PLACEMENT_ANNOTATION, ClusterName
from dispatcher.core.placement import Counts, Placement, Share, format_placement
from hack.lab import Lab
from tests.cli.plugin import Plugin

IMPORT_SECONDS = 0.3
TRIES = 3
"""The least of so many runs counts: the machine may be busy with other things."""

long = pytest.mark.skipif(
    "JOB_DISPATCHER_TEST_LONG" not in os.environ,
    reason="makes 5,000 Jobs, and needs a quiet machine: set JOB_DISPATCHER_TEST_LONG",
)


def test_the_import_of_the_plugin() -> None:
    command = [sys.executable, "-X", "importtime", "-c", "import dispatcher.commands.kubectl"]
    times = []
    for _ in range(TRIES):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        # "import time: self [us] | cumulative | name", the module itself last
        *_, cumulative, name = done.stderr.splitlines()[-1].split("|")
        assert name.strip() == "dispatcher.commands.kubectl"
        times.append(int(cumulative) / 1e6)
    assert min(times) < IMPORT_SECONDS, times


@pytest.mark.parametrize(
    ("count", "processor_seconds", "seconds"),
    [(1_000, 1.2, 30.0), pytest.param(5_000, 2.0, 2.0, marks=[pytest.mark.long, long])],
)
def test_a_list_of_many_jobs(
    lab: Lab, plugin: Plugin, count: int, processor_seconds: float, seconds: float
) -> None:
    connection = Connection(kubeconfig=str(lab.management.kubeconfig))
    path = f"/apis/batch/v1/namespaces/{plugin.namespace}/jobs"
    shares = tuple(
        Share(n, ClusterName(f"worker-{n}"), "uid", "job", 2, 4, counts=Counts(2, 0, 1)) for n in (1, 2)
    )
    placement = format_placement(Placement("another", shares, 3))
    container = {"name": "c", "image": "example.com/none", "command": ["render", "--all"]}
    body = {
        "spec": {
            "managedBy": "jobdispatcher.io/nobody",
            "completions": 8,
            "parallelism": 4,
            "template": {"spec": {"restartPolicy": "Never", "containers": [container]}},
        }
    }
    names = [f"job-{number:04}" for number in range(count)]

    def create(name: str) -> None:
        annotations = {PLACEMENT_ANNOTATION: placement}
        connection.create(path, {**body, "metadata": {"name": name, "annotations": annotations}})

    def delete(name: str) -> None:
        connection.delete(f"{path}/{name}", options={"propagationPolicy": "Background"})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, names))
        used, waited = [], []
        for _ in range(TRIES):
            before, began = used_by_children(), time.monotonic()
            said = plugin.ok("get", "--managed-by", "jobdispatcher.io/nobody", "--no-headers")
            waited.append(time.monotonic() - began)
            used.append(used_by_children() - before)
            assert len(said.splitlines()) == count
        list(pool.map(delete, names))
    assert min(used) < processor_seconds, used
    assert min(waited) < seconds, waited


def used_by_children() -> float:
    """Seconds on a processor of the processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
