"""What people and other programs do to Jobs and mirrors behind our back: nothing is run twice for it."""

import asyncio
import functools
import json
import subprocess
from collections.abc import Iterable
from typing import Any

import pytest

from dispatcher.clusters import jobs
from dispatcher.clusters.client import ApiServer
from dispatcher.core import names
from hack.lab import Lab
from hack.running.controller import Controller
from tests.integration.planes import (
    MANAGED_BY,
    NEVER_ENDS,
    WAIT_SECONDS,
    Planes,
    count,
    is_complete,
    is_dispatched,
    make_job,
)

pytestmark = pytest.mark.lab


def ours(planes: Planes, name: str, **spec: Any) -> dict[str, Any]:
    return make_job(name, managed_by=MANAGED_BY, namespace=planes.namespace, **spec)


async def prove_all_was_seen(planes: Planes) -> None:
    """Another Job's whole life: what was to be done about earlier changes is begun by then."""
    await planes.create(ours(planes, "later", parallelism=3, completions=3))
    await planes.job_when("later", is_complete)
    await planes.delete("later")
    await planes.job_when("later", lambda job: job is None)
    await planes.pods_when(lambda pods: all("later" not in pod["metadata"]["name"] for pod in pods))


async def test_a_mirror_that_finished_before_the_others_is_not_made_again(planes: Planes) -> None:
    """Deleted while the Job still runs elsewhere; what it reached stays counted."""
    script = [{"nth": "1", "exit": None}, {"exit": 0}]
    job = ours(planes, "early", script=script, parallelism=6, completions=5)
    uid = (await planes.create(job))["metadata"]["uid"]
    # 2, 2 and 1: the second pod of each larger share does not end, the smallest share finishes.
    await planes.job_when("early", lambda job: count(job, "succeeded") == 3)
    mirrors = await planes.mirrors(uid)
    sizes = [mirror["spec"]["completions"] for mirror in mirrors]
    assert sorted(sizes) == [1, 2, 2]
    done = planes.workers[sizes.index(1)]
    await planes.job_when("early", is_complete, on=done)
    victim = mirrors[sizes.index(1)]["metadata"]["uid"]
    assert (await jobs.delete_job(done, planes.namespace, "early", victim)).ok
    await prove_all_was_seen(planes)
    assert len(await planes.mirrors(uid)) == 2
    # A deleted pod counts as failed; the one in its place succeeds.
    for api in planes.workers:
        for pod in await planes.pods(api):
            if pod["status"]["phase"] == "Running":
                path = f"/api/v1/namespaces/{planes.namespace}/pods/{pod['metadata']['name']}"
                assert (await api.request("DELETE", path)).ok
    ended = await planes.job_when("early", is_complete)
    assert (count(ended, "succeeded"), count(ended, "failed")) == (5, 2)
    assert len(await planes.mirrors(uid)) == 2
    assert await planes.pods(done) == []


async def ready_mirrors(planes: Planes, job: dict[str, Any]) -> dict[str, Any]:
    """Create a Job of three pods that never end; its mirrors' labels by UID once all pods run."""
    uid = (await planes.create(job))["metadata"]["uid"]
    await planes.job_when("bare", lambda job: count(job, "ready") == 3 and is_dispatched(job))
    return await labels_of(planes, uid)


async def labels_of(planes: Planes, uid: str) -> dict[str, Any]:
    return {mirror["metadata"]["uid"]: our_labels(mirror) for mirror in await planes.mirrors(uid)}


def our_labels(mirror: dict[str, Any]) -> dict[str, str]:
    """Without those that the API server puts on a Job that has none."""
    labels = mirror["metadata"].get("labels") or {}
    return {key: value for key, value in labels.items() if key.startswith(names.PREFIX)}


async def take_labels(planes: Planes, labels: Iterable[str]) -> None:
    await planes.patch("bare", {"metadata": {"labels": dict.fromkeys(labels)}}, on=planes.workers[0])


async def labels_are_back(planes: Planes, before: dict[str, Any]) -> None:
    """The same mirrors carry what they carried, and no pod was started a second time.

    A label on the Job goes to its mirrors by the next decision, so it shows that one has been made since.
    """
    uids = {labels[names.JOB_UID_LABEL] for labels in before.values()}
    assert len(uids) == 1
    await planes.patch("bare", {"metadata": {"labels": {"decided": "since"}}})
    bare = [await mirrors_once_decided(planes, api) for api in planes.workers]
    found = {mirror["metadata"]["uid"]: our_labels(mirror) for mirrors in bare for mirror in mirrors}
    assert found == before
    await prove_all_was_seen(planes)
    assert await labels_of(planes, uids.pop()) == before
    await planes.pods_when(lambda pods: len(pods) == 3)


async def mirrors_once_decided(planes: Planes, api: ApiServer) -> list[dict[str, Any]]:
    """All Jobs of the namespace on one worker, whatever their labels, once one carries the Job's new label."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            reply = await jobs.list_jobs(api, planes.namespace)
            assert reply.body is not None, reply
            listed: list[dict[str, Any]] = reply.body["items"]
            if any("decided" in mirror["metadata"].get("labels", {}) for mirror in listed):
                return listed
            await asyncio.sleep(0.05)


JOB_UID = (names.JOB_UID_LABEL,)
SHARE = (names.SHARE_LABEL,)
BUCKET = (names.BUCKET_LABEL,)
ALL = (names.ORIGIN_LABEL, *JOB_UID, *SHARE, *BUCKET)


@pytest.mark.parametrize(
    "taken",
    [
        pytest.param(JOB_UID, id="job-uid"),
        pytest.param(SHARE, id="share"),
        pytest.param(BUCKET, id="bucket"),
        pytest.param(ALL, id="all"),
    ],
)
async def test_labels_taken_while_we_look_are_put_back(planes: Planes, taken: tuple[str, ...]) -> None:
    job = ours(planes, "bare", script=NEVER_ENDS, parallelism=3, completions=3)
    before = await ready_mirrors(planes, job)
    await take_labels(planes, taken)
    await labels_are_back(planes, before)


@pytest.mark.parametrize("taken", [JOB_UID, ALL], ids=["job-uid", "all"])
async def test_labels_taken_while_none_of_us_ran_are_put_back(
    lab: Lab, planes: Planes, taken: tuple[str, ...]
) -> None:
    own = f"jobdispatcher.io/blind-{planes.namespace}"
    start = functools.partial(Controller.start, lab, managed_by=own)
    controller = await asyncio.to_thread(start)
    job = make_job(
        "bare", managed_by=own, namespace=planes.namespace, script=NEVER_ENDS, parallelism=3, completions=3
    )
    try:
        before = await ready_mirrors(planes, job)
        controller.kill()
        await take_labels(planes, taken)
        controller = await asyncio.to_thread(start)
        await labels_are_back(planes, before)
    finally:
        if controller.is_running:
            await planes.delete_all()
            await asyncio.to_thread(controller.stop)


async def test_kubectl_replace_drops_what_is_ours_and_nothing_runs_again(lab: Lab, planes: Planes) -> None:
    """A replaced Job has neither placement nor finalizer: both come back, the mirrors stay."""
    job = ours(planes, "replaced", script=[{"after": "2s", "exit": 0}], parallelism=3, completions=6)
    uid = (await planes.create(job))["metadata"]["uid"]
    found = await planes.job_when("replaced", is_dispatched)
    before = {mirror["metadata"]["uid"] for mirror in await planes.mirrors(uid)}
    kept = {"name", "namespace", "labels", "uid"}
    metadata = {key: value for key, value in found["metadata"].items() if key in kept}
    plain = {**found, "metadata": metadata}
    del plain["status"]
    command = [str(lab.folder / "bin" / "kubectl"), "--kubeconfig", str(lab.management.kubeconfig)]
    command += ["replace", "-f", "-"]
    await asyncio.to_thread(
        lambda: subprocess.run(command, input=json.dumps(plain), text=True, check=True, capture_output=True)
    )
    await planes.event_when("replaced", "PlacementRebuilt")
    ended = await planes.job_when("replaced", is_complete)
    assert ended["metadata"]["uid"] == uid
    assert names.FINALIZER in ended["metadata"]["finalizers"]
    assert count(ended, "succeeded") == 6
    assert {mirror["metadata"]["uid"] for mirror in await planes.mirrors(uid)} == before
    await planes.pods_when(lambda pods: len(pods) == 6)


async def test_a_copied_job_with_anothers_placement_leaves_the_other_alone(planes: Planes) -> None:
    """Nor does the copy take over what the other has reached."""
    script = [{"nth": "0", "exit": 0}, {"exit": None}]
    first = ours(planes, "original", script=script, parallelism=3, completions=6)
    uid = (await planes.create(first))["metadata"]["uid"]
    found = await planes.job_when(
        "original",
        lambda job: (count(job, "succeeded"), count(job, "ready")) == (3, 3) and is_dispatched(job),
    )
    before = {mirror["metadata"]["uid"] for mirror in await planes.mirrors(uid)}
    copy = ours(planes, "copy", parallelism=3, completions=6)
    copy["metadata"]["annotations"] = found["metadata"]["annotations"]
    copy["metadata"]["finalizers"] = found["metadata"]["finalizers"]
    copied = (await planes.create(copy))["metadata"]["uid"]
    await planes.job_when("copy", is_complete)
    mirrors = await planes.mirrors(copied)
    assert [mirror["metadata"]["name"] for mirror in mirrors] == ["copy"] * 3
    assert sum(count(mirror, "succeeded") for mirror in mirrors) == 6
    await planes.delete("copy")
    await planes.job_when("copy", lambda job: job is None)
    assert await planes.mirrors(copied) == []
    assert {mirror["metadata"]["uid"] for mirror in await planes.mirrors(uid)} == before
