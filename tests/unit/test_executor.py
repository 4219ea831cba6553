"""The order in which a write's answer and its watch event come makes no difference."""

import copy
import json
from typing import Any

import pytest
from prometheus_client import REGISTRY

from dispatcher.clusters import jobs as requests
from dispatcher.clusters.reply import Outcome, Reply
from dispatcher.core import names
from dispatcher.core.actions import WriteJob
from dispatcher.core.observation import Rules
from dispatcher.operator.job_writes import JobWriter
from dispatcher.operator.world import World
from dispatcher.operator.write_gate import WriteGate


def job(version: str, state: str) -> dict[str, Any]:
    share = {
        "id": 0,
        "cluster": "early",
        "clusterUID": "u",
        "mirror": "m",
        "mirrorUID": "x",
        "parallelism": 1,
    }
    placement = {
        "version": 1,
        "jobUID": "1",
        "nextShare": 1,
        "shares": [{**share, "completions": 5, "state": state}],
    }
    metadata = {"namespace": "n", "name": "j", "uid": "1", "resourceVersion": version}
    text = json.dumps(placement, separators=(",", ":"))
    return {
        "kind": "Job",
        "spec": {},
        "metadata": {**metadata, "annotations": {names.PLACEMENT_ANNOTATION: text}},
    }


@pytest.mark.parametrize("watch_is_first", [True, False])
async def test_a_lost_share_counts_once_whether_the_watch_or_the_answer_is_first(
    monkeypatch: pytest.MonkeyPatch, watch_is_first: bool
) -> None:
    world = World(Rules("origin"), wake=lambda _key: None)
    cache = world.jobs
    runs, lost = job("1", "Active"), job("2", "Lost")
    cache.put(runs)

    async def replace(*_arguments: Any) -> Reply:
        if watch_is_first:
            cache.put(copy.deepcopy(lost))
        return Reply(Outcome.OK, 200, lost)

    monkeypatch.setattr(requests, "replace_job_status", replace)
    none: Any = None
    writer = JobWriter(none, world=world, gate=WriteGate(), recorder=none, wake=lambda _key: None)
    lost_before = failovers()
    assert await writer.write(("n", "j"), runs, WriteJob(lost))
    assert failovers() == lost_before + 1


def failovers() -> float:
    return REGISTRY.get_sample_value("job_dispatcher_failovers_total", {"cluster": "early"}) or 0.0
