"""The chart for real: helm starts the controller's own image as a pod of the management cluster.

Nothing runs beside it. There is no Service network on the node, so the pod has its node's network (chart value
hostNetwork) and is told the API server's address; the API server calls the pod's Service by its endpoints.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.core import names
from hack.conformance import report, scenario
from hack.conformance.program import can_play, depends_on_kubelet
from hack.conformance.suite import planes_of, run_suite
from hack.image.archive import controller_image
from hack.lab import Lab, Plane, ports
from hack.lab.api import JSON
from hack.lab.kubelet import machine
from hack.lab.kubelet.images import BUSYBOX
from tests.chart.charts import NAMESPACE, RELEASE
from tests.chart.installation import CLUSTERS, Installation, find
from tests.e2e.conftest import lab_or_skip
from tests.e2e.work import eventually

pytestmark = pytest.mark.lab

IMAGE, TAG = "lab.jobdispatcher.io/job-dispatcher", "1"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
API_SERVICE = "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.view.jobdispatcher.io"
# Of those that depend on a kubelet, some that no slow machine makes miss a moment. The others too:
# make conformance ARGS="--nodes kubelet".
SCENARIOS = {
    "backoff-on-failure-exceeded-one-pod",
    "indexed-on-failure-restarts",
    "pfp-fail-index-two-clusters",
    "pfp-ignore",
    "replacement-failed-fixed",
    "success-others-succeed-while-stopping",
    "suspend-pods-succeed-while-terminating",
}


@pytest.fixture(scope="module")
def bare_real_lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A real node on the management cluster and on two workers, and nothing of the dispatcher but its image.

    JOB_DISPATCHER_TEST_BARE_REAL_LAB names a folder for a lab that is kept.
    """
    variable = "JOB_DISPATCHER_TEST_BARE_REAL_LAB"
    with lab_or_skip(tmp_path_factory, kept=variable, management_node=True, bare=True) as running:
        assembled = request.getfixturevalue("assembled")
        running.management.load_images([controller_image(f"{IMAGE}:{TAG}", assembled=assembled)])
        yield running


@pytest.fixture(scope="module")
def release(bare_real_lab: Lab) -> Iterator[Installation]:
    """The chart, installed and joined to both workers by a person's commands; uninstalled by the last test."""
    management = bare_real_lab.management
    metrics, view = ports.pick(2)
    port = management.apiserver.port
    installed = Installation(
        bare_real_lab,
        sets={
            "image.repository": IMAGE,
            "image.tag": TAG,
            "replicaCount": 1,  # of this network there is one
            "hostNetwork": True,
            "extraEnv": [
                {"name": "KUBERNETES_SERVICE_HOST", "value": ports.ADDRESS},
                {"name": "KUBERNETES_SERVICE_PORT", "value": str(port)},
            ],
            "metrics.port": metrics,
            "view.enabled": True,
            "view.port": view,
        },
    )
    # Once the Deployment is available, its probes have passed.
    installed.install_and_wait()
    for worker in bare_real_lab.workers:
        assert f"{worker.name} is ready" in installed.join(worker)
    yield installed
    if RELEASE in installed.helm("list", "--short"):
        installed.uninstall("--no-hooks")


def controller_pod(management: Plane) -> JSON:
    """The one pod of the Deployment."""
    [pod] = [
        it
        for it in management.api.get(PODS)["items"]
        if it["metadata"]["labels"].get("app.kubernetes.io/name") == "job-dispatcher"
        and "deletionTimestamp" not in it["metadata"]
    ]
    return dict(pod)


def container_of(pod: JSON) -> JSON:
    """The status of its one container."""
    [status] = pod["status"]["containerStatuses"]
    return dict(status)


def job(name: str, script: str, **spec: object) -> JSON:
    """A dispatched Job whose one container runs `script`."""
    container = {"name": "main", "image": BUSYBOX, "command": ["sh", "-euc", script]}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "metadata": {"name": name},
        "spec": {"managedBy": names.DEFAULT_MANAGED_BY, "template": template, **spec},
    }


def test_the_pod_runs_as_the_image_and_the_chart_say(release: Installation) -> None:
    management = release.lab.management
    pod = eventually(lambda: controller_pod(management), lambda found: container_of(found)["ready"])
    assert pod["spec"]["serviceAccountName"] == release.account.partition(":")[2]
    process = Path(f"/proc/{controller_process(release.lab)}")
    lines = (process / "status").read_text().splitlines()
    facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert facts["Uid"].split() == ["65532"] * 4
    assert facts["Gid"].split() == ["65532"] * 4
    assert int(facts["CapEff"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    assert command_line(process).split(b"\0")[1] == b"/opt/job-dispatcher/bin/job-dispatcher"


def controller_process(lab: Lab) -> int:
    """The id on this machine of the controller's process."""
    pids = machine.pod_processes(lab.folder, plane=lab.management.name)
    [pid] = [pid for pid in pids if b"--managed-by=" in command_line(Path(f"/proc/{pid}"))]
    return pid


def command_line(folder: Path) -> bytes:
    """Of a process, by its folder in /proc; empty when it has gone."""
    try:
        return (folder / "cmdline").read_bytes()
    except OSError:
        return b""


def test_a_split_job_completes_and_its_logs_are_there(release: Installation) -> None:
    management, workers = release.lab.management, release.lab.workers
    management.api.create(
        JOBS,
        job(
            "split",
            'echo "index $JOB_COMPLETION_INDEX"',
            completionMode="Indexed",
            completions=4,
            parallelism=4,
        ),
    )
    status = eventually(lambda: management.api.get(f"{JOBS}/split").get("status", {}), is_over)
    assert (status["succeeded"], status["completedIndexes"], status.get("failed", 0)) == (4, "0-3", 0)
    # By the API server, the Service of the chart and the controller's own certificate.
    conditions = management.api.get(API_SERVICE)["status"]["conditions"]
    assert [it["status"] for it in conditions if it["type"] == "Available"] == ["True"]
    shown = release.dispatch("logs", "split")
    assert shown.returncode == 0, shown.stderr
    lines = [re.fullmatch(r"\[(.+)/.+] (.+)", line) for line in shown.stdout.splitlines()]
    said = sorted((line[2], line[1]) for line in lines if line)
    first, second = (worker.name for worker in workers)
    assert said == [("index 0", first), ("index 1", first), ("index 2", second), ("index 3", second)]


async def test_what_depends_on_a_kubelet_is_as_on_one_cluster(release: Installation) -> None:
    """The built-in controller with the management cluster's node, beside the dispatched Job on two workers."""
    wanted = [entry for entry in scenario.load() if entry.id in SCENARIOS]
    assert len(wanted) == len(SCENARIOS)
    assert all(depends_on_kubelet(entry) and can_play(entry) for entry in wanted)
    results = await run_suite(
        wanted,
        planes_of(release.lab),
        clusters=(2,),
        managed_by=names.DEFAULT_MANAGED_BY,
        at_once=5,
    )
    failed = [report.describe(result) for result in results if not result.passed]
    assert not failed, "\n\n".join(failed)


def test_a_controller_that_is_killed_starts_again_and_goes_on(release: Installation) -> None:
    management = release.lab.management
    before = container_of(controller_pod(management))["restartCount"]
    management.api.create(JOBS, job("goes-on", "sleep 8", completions=2, parallelism=2))
    eventually(lambda: [find(worker, f"{JOBS}/goes-on") is not None for worker in release.lab.workers], all)
    os.kill(controller_process(release.lab), signal.SIGKILL)
    status = eventually(lambda: management.api.get(f"{JOBS}/goes-on").get("status", {}), is_over)
    assert (status["succeeded"], status.get("failed", 0)) == (2, 0)
    container = container_of(controller_pod(management))
    assert container["restartCount"] > before
    assert container["lastState"]["terminated"]["exitCode"] == 137


def test_uninstall_looks_for_jobs_first_and_then_leaves_nothing(release: Installation) -> None:
    management, workers = release.lab.management, release.lab.workers
    for item in management.api.get(JOBS)["items"]:
        management.api.delete(f"{JOBS}/{item['metadata']['name']}")
    eventually(lambda: management.api.get(JOBS)["items"], lambda left: not left)
    for worker in workers:
        assert worker.api.get(JOBS)["items"] == []
        done = release.dispatch("unjoin", worker.name, "--worker-kubeconfig", worker.kubeconfig)
        assert done.returncode == 0, done.stderr
    assert management.api.get(CLUSTERS)["items"] == []
    release.uninstall("--wait", "--timeout", "120s")
    eventually(lambda: management.api.get(PODS)["items"], lambda left: not left)
    assert find(management, API_SERVICE) is None
    for kind in ("clusterroles", "clusterrolebindings"):
        items = management.api.get(f"/apis/rbac.authorization.k8s.io/v1/{kind}")["items"]
        assert not [it["metadata"]["name"] for it in items if RELEASE in it["metadata"]["name"]]
    for kind in ("services", "secrets", "serviceaccounts"):
        items = management.api.get(f"/api/v1/namespaces/{NAMESPACE}/{kind}")["items"]
        # The controller's own certificate is no object of the release.
        assert {it["metadata"]["name"] for it in items} <= {"default", f"{RELEASE}-view-serving"}


def is_over(status: JSON) -> bool:
    """Whether a Job's status says Complete or Failed."""
    return any(
        it["type"] in ("Complete", "Failed") and it["status"] == "True" for it in status.get("conditions", ())
    )
