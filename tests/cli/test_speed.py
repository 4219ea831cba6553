"""How long people wait: the start of the plugin, and a list of 5,000 Jobs."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from dispatcher.core.names import PLACEMENT_ANNOTATION, ClusterName
from dispatcher.core.placement import Counts, Placement, Share, format_placement
from hack.lab import Lab
from tests.cli.plugin import Plugin

JOBS = 5_000
LIST_SECONDS = 2.0
IMPORT_SECONDS = 0.3
TRIES = 5
"""The least of so many runs counts: the machine may be busy with other things."""


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


def test_five_thousand_jobs(lab: Lab, plugin: Plugin) -> None:
    api = lab.management.api
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

    def create(number: int) -> None:
        annotations = {PLACEMENT_ANNOTATION: placement}
        api.create(path, {**body, "metadata": {"name": f"job-{number:04}", "annotations": annotations}})

    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(create, range(JOBS)))
        times = []
        for _ in range(TRIES):
            began = time.monotonic()
            said = plugin.ok("get", "--managed-by", "jobdispatcher.io/nobody", "--no-headers")
            times.append(time.monotonic() - began)
            assert len(said.splitlines()) == JOBS
        assert min(times) < LIST_SECONDS, times
    finally:
        api.delete(path)
