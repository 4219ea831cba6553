"""The Jobs of tests/jobs as they are meant: each runs its own program, all of them at once."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hack.lab import Lab
from hack.lab.api import JSON
from tests.cli.plugin import MANAGED_BY
from tests.e2e import dns, redis, software
from tests.e2e.conftest import Dispatcher, prepare
from tests.e2e.work import Work, eventually

pytestmark = pytest.mark.lab

FOLDER = Path(__file__).parents[1] / "jobs"
NAMES = {path.stem for path in FOLDER.glob("*.yaml")}
QUEUES = {"coarse-work-queue": ("coarse", 8), "fine-work-queue": ("fine", 12)}
WITH_DEADLINE = "pi-with-deadline"
PI = ("pi-with-ttl", WITH_DEADLINE, "pi")  # the first one is gone 100 s after its end

needs_perl = pytest.mark.skipif(software.PERL is None, reason="there is no Perl to put into an image")
needs_redis = pytest.mark.skipif(redis.PROGRAM is None, reason=redis.NEEDS)


@pytest.fixture(scope="module")
def files(real_lab: Lab, dispatcher: Dispatcher, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    """All of them, at once but for one."""
    content = software.images()
    for plane in real_lab.workers:
        plane.load_images(content)
    work = prepare(real_lab, f"e2e-{uuid.uuid4().hex[:8]}")
    with contextlib.ExitStack() as stack:
        for plane in real_lab.workers:
            stack.enter_context(dns.server(plane))
        port, names = 0, NAMES - QUEUES.keys()
        if redis.PROGRAM is not None:
            folder = tmp_path_factory.mktemp("redis")
            port = stack.enter_context(redis.server(real_lab, folder, **dict(QUEUES.values())))
            names = NAMES
        # By itself at first: what all the others cost to start is not meant by its deadline.
        for name in sorted(names, key=lambda it: (it != WITH_DEADLINE, it)):
            manifest = adapted(name, namespace=work.namespace, port=port)
            kind = f"{manifest['kind'].lower()}s"
            path = f"/apis/batch/v1/namespaces/{work.namespace}/{kind}"
            real_lab.management.api.create(path, manifest)
            if name == WITH_DEADLINE:
                work.ended(name)
        yield work
        real_lab.management.api.delete(f"/apis/batch/v1/namespaces/{work.namespace}/cronjobs/hello")
        work.delete_all()


def adapted(name: str, *, namespace: str, port: int) -> JSON:
    """The file, for a place without a registry, with this suite's managedBy."""
    manifest: JSON = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    manifest["metadata"]["namespace"] = namespace
    job = manifest["spec"].get("jobTemplate", manifest)
    job["spec"]["managedBy"] = MANAGED_BY
    pod = job["spec"]["template"]["spec"]
    pod["terminationGracePeriodSeconds"] = 1  # a program that is process 1 does not hear SIGTERM
    for container in [*pod["containers"], *pod.get("initContainers", ())]:
        container["imagePullPolicy"] = "Never"
        if name in QUEUES:
            container["env"] = redis.environment(port, queue=QUEUES[name][0])
    return manifest


def digits(count: int) -> str:
    """So many digits of pi, by Machin's formula in whole numbers."""
    one = 10 ** (count + 10)

    def arctangent(inverse: int) -> int:
        term: int = one // inverse
        total = term
        sign, step = -1, 3
        while term:
            term //= inverse * inverse
            total += sign * (term // step)
            sign, step = -sign, step + 2
        return total

    text: str = str(4 * (4 * arctangent(5) - arctangent(239)))
    return f"{text[0]}.{text[1:count]}"


def clusters(work: Work, name: str) -> set[str]:
    """Those on which the Job had pods."""
    return {plane.name for plane in work.lab.workers if work.pods(plane, name)}


@needs_perl
@pytest.mark.parametrize("name", PI)
def test_pi(files: Work, name: str) -> None:
    kind, _, status = files.ended(name)
    assert (kind, status["succeeded"], status.get("failed", 0)) == ("Complete", 1, 0)
    # The last digit is rounded.
    assert files.logs(name, "--no-prefix")[0][:2000] == digits(1999)


def test_fixed_completions(files: Work) -> None:
    kind, _, status = files.ended("fixed-completions")
    assert (kind, status["succeeded"]) == ("Complete", 10)
    assert files.logs("fixed-completions", "--no-prefix") == ["working"] * 10
    assert clusters(files, "fixed-completions") == {"worker-1", "worker-2"}


def test_indexed_from_environment(files: Work) -> None:
    kind, _, status = files.ended("indexed-from-environment")
    assert (kind, status["completedIndexes"]) == ("Complete", "0-4")
    for index, name in enumerate(("ada", "bob", "cyd", "dan", "eve")):
        assert files.logs("indexed-from-environment", "--index", str(index), "--no-prefix")[-1] == name[::-1]
    assert clusters(files, "indexed-from-environment") == {"worker-1", "worker-2"}


def test_indexed_from_annotation(files: Work) -> None:
    kind, _, status = files.ended("indexed-from-annotation")
    assert (kind, status["completedIndexes"]) == ("Complete", "0-4")
    lines = [re.sub(r"^\[.*?] ", "", line) for line in files.logs("indexed-from-annotation")]
    assert sorted(lines) == list("01234")


def test_pods_that_talk_to_each_other_are_on_one_cluster(files: Work) -> None:
    kind, _, status = files.ended("indexed-that-talk")
    assert (kind, status["completedIndexes"]) == ("Complete", "0-2")
    assert len(clusters(files, "indexed-that-talk")) == 1


@needs_redis
@pytest.mark.parametrize("name", sorted(QUEUES))
def test_work_queues(files: Work, name: str) -> None:
    count = QUEUES[name][1]
    kind, _, status = files.ended(name)
    assert kind == "Complete"
    assert status["succeeded"] == (8 if name == "coarse-work-queue" else 2)
    assert sorted(files.logs(name, "--no-prefix")) == sorted(redis.items(count))
    assert clusters(files, name) == {"worker-1", "worker-2"}


@pytest.mark.parametrize(
    ("name", "reason", "completed", "failed"),
    [
        ("backoff-limit-per-index", "FailedIndexes", "1,3,5,7,9", "0,2,4,6,8"),
        ("fail-index", "FailedIndexes", "2,3", "0,1"),
    ],
)
def test_failed_indexes(files: Work, name: str, reason: str, completed: str, failed: str) -> None:
    kind, said, status = files.ended(name)
    assert (kind, said) == ("Failed", reason)
    assert (status["completedIndexes"], status["failedIndexes"]) == (completed, failed)


def test_an_exit_code_fails_the_job(files: Work) -> None:
    kind, reason, status = files.ended("pod-failure-policy")
    assert (kind, reason, status.get("active", 0)) == ("Failed", "PodFailurePolicy", 0)


def test_success_policy(files: Work) -> None:
    kind, reason, status = files.ended("success-policy")
    assert (kind, reason) == ("Complete", "SuccessPolicy")
    assert status["completedIndexes"] == "2"


def test_suspended(files: Work) -> None:
    eventually(
        lambda: files.get("suspended").get("status", {}).get("conditions", []),
        lambda found: any(it["type"] == "Suspended" and it["status"] == "True" for it in found),
    )
    assert clusters(files, "suspended") == set()
    files.update("suspended", suspend=False)
    kind, _, status = files.ended("suspended")
    assert (kind, status["succeeded"]) == ("Complete", 5)


def test_jobs_of_a_cron_job(files: Work) -> None:
    jobs = f"/apis/batch/v1/namespaces/{files.namespace}/jobs"

    def made() -> list[str]:
        items = files.lab.management.api.get(jobs)["items"]
        return [it["metadata"]["name"] for it in items if it["metadata"]["name"].startswith("hello-")]

    name = eventually(made, bool)[0]
    assert files.ended(name)[0] == "Complete"
    assert files.logs(name, "--no-prefix")[-1] == "Hello from one of many clusters"


def test_every_file_has_its_test() -> None:
    """One that is added is not forgotten."""
    tried = {
        "fixed-completions",
        "indexed-from-annotation",
        "indexed-from-environment",
        "indexed-that-talk",
        "cronjob",
        "suspended",
    }
    tried |= {"backoff-limit-per-index", "fail-index", "pod-failure-policy", "success-policy"}
    assert tried | {*PI, *QUEUES} == NAMES
