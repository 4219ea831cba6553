"""ConfigMaps, Secrets and namespaces that follow Jobs to real workers."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dispatcher.clusters import jobs, objects
from dispatcher.clusters.client import MERGE_PATCH, ApiServer, resource_path
from dispatcher.core import names
from dispatcher.operator.faults import VARIABLE
from hack.lab import Lab
from hack.running.controller import Controller
from tests.chart.audit import Audit
from tests.integration.planes import (
    MANAGED_BY,
    NEVER_ENDS,
    Planes,
    condition,
    count,
    has_reason,
    is_complete,
    is_dispatched,
    make_job,
)
from tests.integration.test_high_availability import QUICK, end, leads, start, until

pytestmark = pytest.mark.lab

Manifest = dict[str, Any]
SECONDS = 90.0
"""More than a loaded machine's garbage collector takes."""
POLICIES = f"{names.API_GROUP}/{names.API_VERSION}"


class Followed(Planes):
    """Planes with objects and policies of the test's namespace."""

    async def put(self, kind: str, name: str, *, on: ApiServer | None = None, **content: Any) -> Manifest:
        """Make an object, on the management plane unless said otherwise."""
        body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, **content}
        reply = await objects.create(on or self.management, kind, self.namespace, body)
        assert reply.body is not None
        assert reply.ok, reply
        return reply.body

    async def get(self, api: ApiServer, kind: str, name: str) -> Manifest | None:
        reply = await objects.get(api, kind, self.namespace, name)
        return reply.body if reply.ok else None

    async def remove(self, kind: str, name: str, *, on: ApiServer | None = None) -> None:
        reply = await (on or self.management).request("DELETE", objects.path(kind, self.namespace, name))
        assert reply.ok, reply

    async def object_when(
        self, api: ApiServer, kind: str, name: str, condition: Callable[[Manifest | None], bool]
    ) -> Any:
        """The object (None: it is gone) once it meets a condition."""
        found: Manifest | None = None
        try:
            async with asyncio.timeout(SECONDS):
                while True:
                    found = await self.get(api, kind, name)
                    if condition(found):
                        return found
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{kind} {name} did not get there; last seen: {found}") from None

    async def propagates(self, *kinds: str) -> None:
        """The namespace's default policy lets these follow."""
        path = resource_path(POLICIES, "dispatchpolicies", namespace=self.namespace)
        body = {
            "apiVersion": POLICIES,
            "kind": "DispatchPolicy",
            "metadata": {"name": "default"},
            "spec": {"propagate": list(kinds)},
        }
        assert (await self.management.request("POST", path, body=body)).ok

    def job(self, name: str, *, pod: Manifest | None = None, script: Any = None, **spec: Any) -> Manifest:
        """A Job over all workers whose pods need ConfigMap settings and Secret password, unless said otherwise."""
        spec = {"parallelism": len(self.workers), "completions": len(self.workers)} | spec
        made = make_job(name, managed_by=MANAGED_BY, namespace=self.namespace, script=script, **spec)
        needs = [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "password"}}]
        made["spec"]["template"]["spec"]["containers"][0]["envFrom"] = needs
        made["spec"]["template"]["spec"] |= pod or {}
        return made

    async def sources(self) -> None:
        """Both of them."""
        await self.put("ConfigMap", "settings", data={"colour": "blue", "size": "1"}, immutable=False)
        await self.put("Secret", "password", data={"password": encoded("hunter2-never-logged")})


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def owners(found: Manifest | None) -> set[str]:
    """The UIDs of an object's owners."""
    return {it["uid"] for it in ((found or {}).get("metadata") or {}).get("ownerReferences", ())}


def owned_by(uids: set[str]) -> Callable[[Manifest | None], bool]:
    """A test of an object: its owners are just these."""
    return lambda found: owners(found) == uids


def has_data(data: Manifest) -> Callable[[Manifest | None], bool]:
    """A test of an object: this is all of its data."""
    return lambda found: found is not None and found.get("data") == data


def is_gone(found: Manifest | None) -> bool:
    return found is None


@pytest.fixture
async def followed(planes: Planes) -> Followed:
    return Followed(planes.management, planes.workers, namespace=planes.namespace)


async def test_everything_that_a_template_names_follows(followed: Followed, controller: Controller) -> None:
    await followed.propagates("ConfigMap", "Secret")
    await followed.sources()
    await followed.put("ConfigMap", "files", data={"a": "1"}, binaryData={"b": encoded("\0\1")})
    await followed.put("ConfigMap", "unnamed", data={"a": "1"})
    registry = {".dockerconfigjson": encoded("{}")}
    await followed.put("Secret", "registry", type="kubernetes.io/dockerconfigjson", data=registry)
    optional = {"secret": {"name": "not-there", "optional": True}}
    projected = {"sources": [{"configMap": {"name": "files"}}, optional]}
    pod = {
        "imagePullSecrets": [{"name": "registry"}],
        "volumes": [{"name": "v", "projected": projected}],
    }
    made = await followed.create(followed.job("all", pod=pod, script=NEVER_ENDS))
    await followed.job_when("all", lambda job: count(job, "active") == len(followed.workers))
    mirrors = await followed.mirrors(made["metadata"]["uid"])
    assert len(mirrors) == len(followed.workers)
    expected = {"ConfigMap": ["settings", "files"], "Secret": ["password", "registry"]}
    for api, mirror in zip(followed.workers, mirrors, strict=True):
        assert not mirror["spec"]["suspend"]
        for kind, wanted in expected.items():
            for name in wanted:
                source = await followed.get(followed.management, kind, name)
                copy = await followed.get(api, kind, name)
                assert source is not None
                assert copy is not None
                for field in ("data", "binaryData", "type"):
                    assert copy.get(field) == source.get(field)
                assert owners(copy) == {mirror["metadata"]["uid"]}
        assert await followed.get(api, "ConfigMap", "unnamed") is None
        assert await followed.get(api, "Secret", "not-there") is None
    await followed.delete("all")
    for api in followed.workers:
        for kind, wanted in expected.items():
            for name in wanted:
                await followed.object_when(api, kind, name, is_gone)
    log = await asyncio.to_thread(controller.log.read_text)
    assert "hunter2-never-logged" not in log
    assert encoded("hunter2-never-logged") not in log


async def test_a_missing_source_waits_and_one_that_goes_later_stops_nothing(followed: Followed) -> None:
    await followed.propagates("ConfigMap", "Secret")
    await followed.put("Secret", "password", data={"password": encoded("x")})
    made = await followed.create(followed.job("waits", script=NEVER_ENDS, completionMode="Indexed"))
    waiting = await followed.job_when("waits", has_reason(names.DISPATCHED, "DependencyMissing"))
    message = (condition(waiting, names.DISPATCHED) or {})["message"]
    assert message == f"There is no ConfigMap settings in namespace {followed.namespace}; create it"
    await followed.event_when("waits", "DependencyMissing")
    mirrors = await followed.mirrors(made["metadata"]["uid"])
    assert mirrors
    assert all(mirror["spec"]["suspend"] for mirror in mirrors)
    assert not [pod for api in followed.workers for pod in await followed.pods(api)]
    await followed.put("ConfigMap", "settings", data={"a": "1"})
    await followed.job_when("waits", lambda job: count(job, "active") == len(followed.workers))
    await followed.job_when("waits", is_dispatched)
    await followed.remove("ConfigMap", "settings")
    await followed.put("ConfigMap", "marker", data={})
    await followed.patch("waits", {"metadata": {"labels": {"seen": "yes"}}})

    async def labelled() -> bool:
        found = await followed.mirrors(made["metadata"]["uid"])
        assert not any(mirror["spec"]["suspend"] for mirror in found)
        return all((mirror["metadata"]["labels"]).get("seen") == "yes" for mirror in found)

    async with asyncio.timeout(SECONDS):
        while not await labelled():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    for api in followed.workers:
        assert await followed.get(api, "ConfigMap", "settings") is not None
    assert is_dispatched(await followed.job_when("waits", lambda job: job is not None))


async def test_what_is_somebody_elses_is_never_overwritten(followed: Followed) -> None:
    await followed.propagates("ConfigMap", "Secret")
    await followed.sources()
    foreign = await followed.put("Secret", "password", on=followed.workers[0], data={"theirs": encoded("1")})
    made = await followed.create(followed.job("taken"))
    waiting = await followed.job_when("taken", has_reason(names.DISPATCHED, "DependencyNameTaken"))
    message = (condition(waiting, names.DISPATCHED) or {})["message"]
    assert message.startswith(
        "There is a Secret password of somebody else's on cluster worker-1 in namespace"
    )
    await followed.event_when("taken", "DependencyNameTaken")
    mirrors = await followed.mirrors(made["metadata"]["uid"])
    assert mirrors[0]["spec"]["suspend"]
    assert await followed.get(followed.workers[0], "Secret", "password") == foreign
    await followed.remove("Secret", "password", on=followed.workers[0])
    await followed.job_when("taken", is_complete)


async def test_updates_follow_while_the_job_runs(followed: Followed) -> None:
    await followed.propagates("ConfigMap", "Secret")
    await followed.sources()
    await followed.create(followed.job("updated", script=NEVER_ENDS))
    await followed.job_when("updated", lambda job: count(job, "active") == len(followed.workers))
    changes: list[tuple[str, str, Manifest]] = [
        ("ConfigMap", "settings", {"colour": "red", "size": None}),
        ("Secret", "password", {"password": encoded("new")}),
    ]
    for kind, name, data in changes:
        path = objects.path(kind, followed.namespace, name)
        body = {"data": data}
        reply = await followed.management.request("PATCH", path, body=body, content_type=MERGE_PATCH)
        assert reply.ok
        wanted = (reply.body or {})["data"]
        for api in followed.workers:
            await followed.object_when(api, kind, name, has_data(wanted))


async def test_jobs_that_share_an_object_own_it_together(followed: Followed) -> None:
    await followed.propagates("ConfigMap", "Secret")
    await followed.sources()
    uids = []
    for name in ("one", "two"):
        made = await followed.create(followed.job(name, script=NEVER_ENDS))
        await followed.job_when(name, lambda job: count(job, "active") == len(followed.workers))
        uids.append(made["metadata"]["uid"])
    mirrors = [
        [mirror["metadata"]["uid"] for mirror in await followed.mirrors(uid)] for uid in uids
    ]  # by Job, in order of the workers
    for number, api in enumerate(followed.workers):
        both = {mirrors[0][number], mirrors[1][number]}
        await followed.object_when(api, "Secret", "password", owned_by(both))
    await followed.delete("one")
    for number, api in enumerate(followed.workers):
        left = {mirrors[1][number]}
        await followed.object_when(api, "Secret", "password", owned_by(left))
    await followed.delete("two")
    for api in followed.workers:
        await followed.object_when(api, "Secret", "password", is_gone)


async def test_only_the_kinds_that_the_policy_names_follow(followed: Followed) -> None:
    await followed.propagates("ConfigMap")
    await followed.sources()
    await followed.create(followed.job("half"))
    await followed.job_when("half", is_complete)
    for api in followed.workers:
        assert await followed.get(api, "ConfigMap", "settings") is not None
        assert await followed.get(api, "Secret", "password") is None


async def test_a_job_that_lets_nothing_follow_costs_no_request(followed: Followed, lab: Lab) -> None:
    audits = [Audit(plane, account="job-dispatcher:job-dispatcher") for plane in lab.planes]
    await followed.sources()
    await followed.create(followed.job("alone"))
    await followed.job_when("alone", is_complete)
    for audit in audits:
        used = {
            (right.verb, right.resource) for right in audit.used() if right.namespace == followed.namespace
        }
        assert not [right for right in used if right[1] in ("configmaps", "secrets")]
    for api in followed.workers:
        assert await followed.get(api, "ConfigMap", "settings") is None


async def test_an_account_token_is_never_copied(followed: Followed) -> None:
    await followed.propagates("Secret")
    account = {"kubernetes.io/service-account.name": "default"}
    body = {
        "metadata": {"name": "password", "annotations": account},
        "type": "kubernetes.io/service-account-token",
    }
    async with asyncio.timeout(SECONDS):  # the namespace's default account takes a moment
        while not (await objects.create(followed.management, "Secret", followed.namespace, body)).ok:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    await followed.create(followed.job("token"))
    waiting = await followed.job_when("token", has_reason(names.DISPATCHED, "DependencyRefused"))
    assert "is the token of a ServiceAccount" in (condition(waiting, names.DISPATCHED) or {})["message"]
    for api in followed.workers:
        assert await followed.get(api, "Secret", "password") is None


@pytest.fixture
async def makes_namespaces(planes: Planes) -> AsyncIterator[str]:
    """A namespace of the management plane only, which worker-1 may make; gone at the end."""
    namespace = f"{planes.namespace}-made"
    path = resource_path(POLICIES, "workerclusters", name="worker-1")

    async def allow(value: bool | None) -> None:
        body = {"spec": {"createNamespace": value}}
        assert (await planes.management.request("PATCH", path, body=body, content_type=MERGE_PATCH)).ok

    assert (await jobs.create_namespace(planes.management, {"metadata": {"name": namespace}})).ok
    await allow(True)
    yield namespace
    await allow(None)
    there = Planes(planes.management, planes.workers, namespace=namespace)
    await there.delete_all()


async def test_missing_namespaces_are_made_where_the_cluster_says_so(
    planes: Planes, makes_namespaces: str
) -> None:
    there = Planes(planes.management, planes.workers, namespace=makes_namespaces)
    preferences = '{"clusters": {"worker-1": {"weight": 1}}}'
    job = make_job("first", managed_by=MANAGED_BY, namespace=makes_namespaces)
    job["metadata"]["annotations"] = {names.PREFERENCES_ANNOTATION: preferences}
    await there.create(job)
    await there.job_when("first", is_complete)
    assert (await jobs.get_namespace(planes.workers[0], makes_namespaces)).ok
    job["metadata"] |= {"name": "second"}
    job["metadata"]["annotations"] = {
        names.PREFERENCES_ANNOTATION: preferences.replace("worker-1", "worker-2")
    }
    await there.create(job)
    await there.job_when("second", has_reason(names.DISPATCHED, "NamespaceMissing"))
    assert not (await jobs.get_namespace(planes.workers[1], makes_namespaces)).ok


CRASHING = "jobdispatcher.io/propagation-crash"


@pytest.mark.parametrize("write", [3, 4, 5])
async def test_a_crash_between_the_copies_and_the_start_is_no_harm(
    followed: Followed, lab: Lab, tmp_path: Path, write: int
) -> None:
    """Killed right after its third (fourth, fifth) write: the mirror, the first copy, the second are there."""
    await followed.propagates("ConfigMap", "Secret")
    await followed.sources()
    job = followed.job("crash", script=[{"after": "1s", "exit": 0}], parallelism=1, completions=1)
    job["spec"]["managedBy"] = CRASHING
    crashing = Controller.start(lab, managed_by=CRASHING, environment={VARIABLE: f"{write}:after"})
    await followed.create(job)
    async with asyncio.timeout(SECONDS):
        while crashing.is_running:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    again = Controller.start(lab, managed_by=CRASHING)
    try:
        done = await followed.job_when("crash", is_complete)
        assert count(done, "succeeded") == 1
        (mirror,) = await followed.mirrors(done["metadata"]["uid"])
        held = [await followed.get(api, "Secret", "password") for api in followed.workers]
        assert [owners(found) for found in held if found] == [{mirror["metadata"]["uid"]}]
        await followed.delete("crash")
        await followed.job_when("crash", is_gone)
    finally:
        again.stop()


async def sent_much_too_late(
    lab: Lab, planes: Planes, job: Manifest, *, at: str, gone: Callable[[], Awaitable[None]]
) -> None:
    """A leader is paused at a write; the other one sees the whole Job through; then that write goes out after all.

    ``gone`` returns when nothing of the Job is left on the workers.
    """
    name, managed_by = job["metadata"]["name"], f"jobdispatcher.io/late-{at}"
    job["spec"]["managedBy"] = managed_by
    resource = {"copy": "configmaps", "namespace": "namespaces"}[at]
    audits = [Audit(plane, account="job-dispatcher:job-dispatcher") for plane in lab.workers]

    def writes() -> int:
        targets = [
            event["objectRef"] for audit in audits for event in audit.events() if event["verb"] == "create"
        ]
        here = [it for it in targets if planes.namespace in (it.get("namespace"), it.get("name"))]
        return sum(target["resource"] == resource for target in here)

    first = await start(lab, managed_by, *QUICK, pause=f"{at}#1:sending")
    second = None
    try:
        await until(leads(first), what="the first leads")
        second = await start(lab, managed_by, *QUICK)
        await planes.create(job)
        await until(lambda: first.is_paused, what=f"pause at {at}")
        await until(leads(second), what="the takeover")
        done = await planes.job_when(name, is_complete)
        assert count(done, "succeeded") == 1
        await planes.delete(name)
        await planes.job_when(name, is_gone)
        await gone()
        before = writes()
        first.resume()
        await until(lambda: not first.is_running, what="the end of the one that lost the Lease")
        await until(lambda: writes() > before, what="the late write")
        await gone()
    finally:
        await end(first, *([second] if second is not None else []))


async def test_a_copy_or_a_namespace_that_is_sent_much_too_late_is_no_harm(
    followed: Followed, makes_namespaces: str, lab: Lab
) -> None:
    there = Planes(followed.management, followed.workers, namespace=makes_namespaces)
    await followed.propagates("ConfigMap", "Secret")
    await followed.sources()

    async def no_copy() -> None:
        for api in followed.workers:
            await followed.object_when(api, "ConfigMap", "settings", is_gone)

    async def no_mirror() -> None:
        await there.job_when("late", is_gone, on=there.workers[0])

    single: Manifest = {"parallelism": 1, "completions": 1}
    made = make_job("late", managed_by=None, namespace=makes_namespaces, **single)
    made["metadata"]["annotations"] = {
        names.PREFERENCES_ANNOTATION: '{"clusters": {"worker-1": {"weight": 1}}}'
    }
    await asyncio.gather(
        sent_much_too_late(lab, followed, followed.job("late", **single), at="copy", gone=no_copy),
        sent_much_too_late(lab, there, made, at="namespace", gone=no_mirror),
    )
