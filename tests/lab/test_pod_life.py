"""A pod's life against a server whose watch lags, which a real one only sometimes does."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

from hack.lab.scripter.attempts import Attempts
from hack.lab.scripter.pods import PodGone, PodLife
from hack.lab.scripter.script import SCRIPT, TERMINATION

JSON = dict[str, Any]


class Recorder:
    """Notes what is written; `gone` is set when the pod was removed."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.codes: list[int] = []
        self.wrote = asyncio.Event()
        self.gone = asyncio.Event()
        self.refuse = False

    async def patch(self, pod: JSON, *, status: JSON, annotations: dict[str, str]) -> None:
        if self.refuse:
            raise PodGone
        self.phases.append(status.get("phase", ""))
        for container in status.get("containerStatuses", []):
            if ended := container["state"].get("terminated"):
                self.codes.append(ended["exitCode"])
        self.wrote.set()

    async def remove(self, pod: JSON) -> None:
        self.gone.set()


def pod(
    *, script: list[JSON], termination: JSON | None = None, node: str = "n", policy: str = "Never"
) -> JSON:
    annotations = {SCRIPT: json.dumps(script)}
    if termination is not None:
        annotations[TERMINATION] = json.dumps(termination)
    return {
        "metadata": {"name": "p", "namespace": "d", "uid": "u", "annotations": annotations},
        "spec": {"containers": [{"name": "c"}], "restartPolicy": policy, "nodeName": node},
        "status": {"phase": "Pending"},
    }


def deleted(pod: JSON) -> JSON:
    changed = copy.deepcopy(pod)
    changed["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return changed


def life(pod: JSON, writer: Recorder) -> PodLife:
    return PodLife(pod, attempts=Attempts(), writer=writer)


async def until(writer: Recorder, wanted: list[str]) -> None:
    async with asyncio.timeout(30):
        while writer.phases != wanted:
            writer.wrote.clear()
            await writer.wrote.wait()


async def test_an_old_state_that_arrives_late_does_not_end_a_pod_twice() -> None:
    writer, subject = Recorder(), pod(script=[{"exit": 0}])
    played = life(subject, writer)
    await until(writer, ["Running", "Succeeded"])
    stale = deleted(subject)
    stale["status"]["phase"] = "Running"
    played.observe(stale)
    await asyncio.wait_for(writer.gone.wait(), 5)
    assert writer.phases == ["Running", "Succeeded"]


async def test_a_pod_waits_for_its_node() -> None:
    writer, subject = Recorder(), pod(script=[], node="")
    played = life(subject, writer)
    await asyncio.sleep(0)
    assert writer.phases == []
    played.observe(pod(script=[]))
    await until(writer, ["Running", "Succeeded"])
    played.forget()


async def test_deleted_before_it_ran() -> None:
    writer = Recorder()
    life(deleted(pod(script=[{"exit": None}], termination={"exit": 7})), writer)
    await asyncio.wait_for(writer.gone.wait(), 5)
    assert (writer.phases, writer.codes) == (["Failed"], [7])


async def test_a_termination_that_never_ends_keeps_the_pod() -> None:
    writer, subject = Recorder(), pod(script=[{"exit": None}], termination={"exit": None})
    played = life(subject, writer)
    await until(writer, ["Running"])
    played.observe(deleted(subject))
    await asyncio.wait_for(played.task, 5)
    assert (writer.phases, writer.gone.is_set()) == (["Running"], False)


async def test_a_pod_that_vanished_ends_its_life_quietly() -> None:
    writer = Recorder()
    writer.refuse = True
    played = life(pod(script=[]), writer)
    await asyncio.wait_for(played.task, 5)
    assert not writer.gone.is_set()


async def test_always_restarts_after_success_too() -> None:
    writer = Recorder()
    played = life(pod(script=[{"try": "0", "exit": 0}, {"exit": None}], policy="Always"), writer)
    await until(writer, ["Running", "", "Running"])  # in between it waits, still Running
    played.forget()
