"""What a pod is given beside its image: copied ConfigMaps and Secrets, a token, memory up to a limit."""

from __future__ import annotations

import base64

import pytest

from tests.e2e.work import Work, eventually, is_gone

pytestmark = pytest.mark.lab


def test_a_copied_config_map_and_secret_are_read_by_pods(work: Work) -> None:
    management, namespace = work.lab.management, work.namespace
    path = f"/api/v1/namespaces/{namespace}"
    work.policy(propagate=["ConfigMap", "Secret"])
    settings = {"metadata": {"name": "settings"}, "data": {"color": "green"}}
    secret = {"metadata": {"name": "password"}, "data": {"word": base64.b64encode(b"open").decode()}}
    management.api.create(f"{path}/configmaps", settings)
    management.api.create(f"{path}/secrets", secret)
    work.create(
        "given",
        'echo "$(cat /settings/color) $WORD $(cat /secret/word)"',
        container={
            "env": [{"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "password", "key": "word"}}}],
            "volumeMounts": [
                {"name": "settings", "mountPath": "/settings"},
                {"name": "secret", "mountPath": "/secret"},
            ],
        },
        volumes=[
            {"name": "settings", "configMap": {"name": "settings"}},
            {"name": "secret", "secret": {"secretName": "password"}},
        ],
        completions=2,
        parallelism=2,
    )
    kind, _, status = work.ended("given")
    assert (kind, status["succeeded"], status.get("failed", 0)) == ("Complete", 2, 0)
    lines = work.logs("given")
    assert {line.split("] ")[1] for line in lines} == {"green open open"}
    assert {line.split("/")[0] for line in lines} == {"[worker-1", "[worker-2"}
    work.delete_all()
    for plane in work.lab.workers:
        for name in ("configmaps/settings", "secrets/password"):
            eventually(lambda p=plane, n=name: is_gone(p, f"{path}/{n}"), bool)  # type: ignore[misc]


def test_a_pod_has_the_token_of_its_account_on_its_own_cluster(work: Work) -> None:
    work.create(
        "token", "cat /var/run/secrets/kubernetes.io/serviceaccount/token", completions=2, parallelism=2
    )
    assert work.ended("token")[0] == "Complete"
    users = set()
    for plane in work.lab.workers:
        for pod in work.pods(plane, "token"):
            log = f"/api/v1/namespaces/{work.namespace}/pods/{pod['metadata']['name']}/log"
            review = {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "spec": {"token": plane.api.text(log).strip()},
            }
            answer = plane.api.create("/apis/authentication.k8s.io/v1/tokenreviews", review)["status"]
            users.add((plane.name, answer.get("user", {}).get("username")))
    account = f"system:serviceaccount:{work.namespace}:default"
    assert users == {("worker-1", account), ("worker-2", account)}


def test_a_pod_that_takes_too_much_memory_is_counted_as_failed(work: Work) -> None:
    # Index 0 fills a buffer four times as large as it may be.
    fills = "exec dd if=/dev/zero of=/dev/null bs=128M count=1"
    script = f'if [ "$JOB_COMPLETION_INDEX" = 0 ]; then {fills}; fi'
    work.create(
        "greedy",
        script,
        container={"resources": {"limits": {"memory": "32Mi"}}},
        completionMode="Indexed",
        completions=2,
        parallelism=2,
        backoffLimitPerIndex=0,
    )
    kind, reason, status = work.ended("greedy")
    assert (kind, reason) == ("Failed", "FailedIndexes")
    assert (status["completedIndexes"], status["failedIndexes"]) == ("1", "0")
    assert (status["succeeded"], status["failed"]) == (1, 1)
    [pod] = work.pods(work.lab.worker(1), "greedy")
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")
