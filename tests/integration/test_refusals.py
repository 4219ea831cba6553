"""What cannot be dispatched now, or ever, is told with what to do, and goes on by itself once it can."""

import asyncio
import subprocess
import uuid
from typing import Any

import pytest

from dispatcher.clusters import jobs
from dispatcher.core import names
from hack.lab import Lab
from hack.running.controller import COMMAND
from tests.integration.planes import (
    MANAGED_BY,
    Planes,
    condition,
    has_reason,
    is_complete,
    make_job,
)

pytestmark = pytest.mark.lab

WORKER_CLUSTER = "/apis/jobdispatcher.io/v1alpha1/workerclusters/worker-1"
MERGE = "application/merge-patch+json"


@pytest.mark.parametrize("value", sorted(names.RESERVED_MANAGED_BY))
async def test_a_reserved_value_is_refused_before_anything_is_touched(lab: Lab, value: str) -> None:
    command = [str(COMMAND), "run", "--kubeconfig", str(lab.dispatcher_kubeconfig), "--managed-by", value]
    ended = await asyncio.to_thread(
        lambda: subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    )
    assert ended.returncode == 2
    assert f"{value} is reserved" in ended.stderr
    assert names.DEFAULT_MANAGED_BY in ended.stderr, "it says what to use instead"


async def test_a_validating_policy_of_a_worker_is_told_in_its_own_words(planes: Planes) -> None:
    name = f"no-jobs-{planes.namespace}"
    base = "/apis/admissionregistration.k8s.io/v1"
    rule = {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}
    here = {"matchLabels": {"kubernetes.io/metadata.name": planes.namespace}}
    policy: dict[str, Any] = {
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"namespaceSelector": here, "resourceRules": [rule]},
            "validations": [{"expression": "false", "message": "ask the batch team first"}],
        },
    }
    binding = {"metadata": {"name": name}, "spec": {"policyName": name, "validationActions": ["Deny"]}}
    api = planes.workers[0]
    paths = [f"{base}/validatingadmissionpolicies", f"{base}/validatingadmissionpolicybindings"]
    try:
        for path, body in zip(paths, (policy, binding), strict=True):
            assert (await api.request("POST", path, body=body)).ok
        await planes.refused_when_created(api)
        job = make_job(
            "denied", managed_by=MANAGED_BY, namespace=planes.namespace, parallelism=3, completions=3
        )
        uid = (await planes.create(job))["metadata"]["uid"]
        told = await planes.job_when("denied", has_reason(names.DISPATCHED, "MirrorRefused"))
        message = (condition(told, names.DISPATCHED) or {})["message"]
        assert "worker-1" in message
        assert "ask the batch team first" in message
        await planes.event_when("denied", "MirrorRefused")
    finally:
        for path in reversed(paths):
            assert (await api.request("DELETE", f"{path}/{name}")).ok
    await planes.job_when("denied", is_complete)
    assert len(await planes.mirrors(uid)) == 3


async def test_a_namespace_that_no_cluster_takes_waits_for_one_that_does(planes: Planes) -> None:
    """By default no cluster takes Jobs of kube-* namespaces; a namespaceSelector does."""
    namespace = f"kube-{uuid.uuid4().hex[:8]}"
    labels = {"test": namespace}
    everywhere = (planes.management, *planes.workers)
    for api in everywhere:
        assert (await jobs.create_namespace(api, {"metadata": {"name": namespace, "labels": labels}})).ok
    created = await planes.create(make_job("shy", managed_by=MANAGED_BY, namespace=namespace, completions=2))
    uid = created["metadata"]["uid"]
    told = await planes.job_when(
        "shy", has_reason(names.DISPATCHED, "NoEligibleClusters"), namespace=namespace
    )
    message = (condition(told, names.DISPATCHED) or {})["message"]
    assert f"worker-1: does not take Jobs of namespace {namespace}" in message
    assert names.PLACEMENT_ANNOTATION not in told["metadata"].get("annotations", {})
    assert await planes.mirrors(uid) == []

    async def select(selector: dict[str, Any] | None) -> None:
        patch = {"spec": {"namespaceSelector": selector}}
        reply = await planes.management.request("PATCH", WORKER_CLUSTER, body=patch, content_type=MERGE)
        assert reply.ok, reply

    try:
        await select({"matchLabels": labels})
        await planes.job_when("shy", is_complete, namespace=namespace)
    finally:
        await select(None)
    assert [mirror["spec"]["completions"] for mirror in await planes.mirrors(uid)] == [2]
    assert (await jobs.get_job(planes.workers[0], namespace, "shy")).ok, "only worker-1 takes it"
    assert (await jobs.delete_job(planes.management, namespace, "shy", uid)).ok
    await planes.job_when("shy", lambda job: job is None, namespace=namespace)
