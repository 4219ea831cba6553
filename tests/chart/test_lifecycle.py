"""install, upgrade, uninstall by helm; and the way out when Jobs are left."""

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher.core import names
from hack.lab import Lab
from hack.lab.api import ApiError
from tests.chart.charts import NAMESPACE, RELEASE, HelmRefused
from tests.chart.installation import BIN, CLUSTERS, Installation, find, forget_everything, until

pytestmark = pytest.mark.lab

JOBS = "/apis/batch/v1/namespaces/default/jobs"
DEPLOYMENT = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{RELEASE}"
API_SERVICE = "/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.view.jobdispatcher.io"
CHECK_FAILS = {"lab.jobdispatcher.io/script": '[{"exit": 1}]'}


@pytest.fixture
def release(bare_lab: Lab) -> Iterator[Installation]:
    """An installed chart; whatever is left of it is removed."""
    installed = Installation(bare_lab)
    yield installed
    forget_everything(bare_lab)
    if RELEASE in installed.helm("list", "--short"):
        installed.uninstall("--no-hooks")


def job(name: str) -> dict[str, object]:
    """A dispatched Job whose pods never end."""
    template = {
        "metadata": {"annotations": {"lab.jobdispatcher.io/script": '[{"exit": null}]'}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "example/c"}]},
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"managedBy": names.DEFAULT_MANAGED_BY, "template": template},
    }


def test_install_upgrade_uninstall(release: Installation) -> None:
    management = release.lab.management
    output = release.install()
    assert "kubectl dispatch join" in output
    assert "kubectl create job" in output
    args = management.api.get(DEPLOYMENT)["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--concurrency=32" in args
    release.install("upgrade", concurrency=8, **{"tokenRenewal.enabled": False})
    args = management.api.get(DEPLOYMENT)["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--concurrency=8" in args
    role = management.api.get(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles/{RELEASE}")
    assert not any("update" in rule["verbs"] for rule in role["rules"] if "secrets" in rule["resources"])
    with pytest.raises(HelmRefused, match="/concurrency"):
        release.install("upgrade", concurrency=0)
    release._sets["concurrency"] = 8
    assert management.api.get(DEPLOYMENT)["spec"]["replicas"] == 2
    # The check's pod runs on the lab's nodes and ends well; nothing stands in the way.
    release.uninstall()
    assert find(management, DEPLOYMENT) is None
    assert find(management, "/apis/rbac.authorization.k8s.io/v1/clusterroles/job-dispatcher") is None
    assert find(management, CLUSTERS) is not None, "the CRDs are kept"
    # The CRDs that were kept are taken over by the next installation.
    release.install("install")


def test_the_aggregated_api_goes_with_its_value_and_with_the_release(release: Installation) -> None:
    """While an APIService's server is away, no namespace can be deleted: here it never is there."""
    management, worker = release.lab.management, release.lab.worker(1)
    role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/job-dispatcher"

    def worker_reads() -> set[str]:
        return {name for rule in worker.api.get(role)["rules"] for name in rule["resources"]}

    served: dict[str, Any] = {"view.enabled": True}
    release.install(**served)
    assert find(management, API_SERVICE) is not None
    # Joining gives the rights that an API which is registered needs, and takes them back.
    assert "may read pods, logs and Events" in release.join(worker, "--timeout", "0")
    assert {"pods", "pods/log", "events"} <= worker_reads()
    release.join(worker, "--timeout", "0", "--no-view")
    assert not {"pods", "pods/log", "events"} & worker_reads()
    release.install("upgrade", **(served | {"view.enabled": False}))
    assert find(management, API_SERVICE) is None
    release.join(worker, "--timeout", "0")
    assert "pods/log" not in worker_reads()
    release.install("upgrade", **served)
    assert find(management, API_SERVICE) is not None
    release.uninstall("--no-hooks")
    assert find(management, API_SERVICE) is None
    management.api.create("/api/v1/namespaces", {"metadata": {"name": "after"}})
    management.api.delete("/api/v1/namespaces/after")
    until(lambda: find(management, "/api/v1/namespaces/after") is None, "a namespace can be deleted")


def test_a_process_that_elects_no_leader_is_gone_before_those_come_that_do(release: Installation) -> None:
    def strategy() -> str:
        found: str = release.lab.management.api.get(DEPLOYMENT)["spec"]["strategy"]["type"]
        return found

    alone: dict[str, Any] = {"replicaCount": 1, "leaderElection.enabled": False}
    release.install(**alone)
    assert strategy() == "Recreate"
    release.install("upgrade", **{"replicaCount": 2, "leaderElection.enabled": True})
    assert strategy() == "Recreate"
    release.install("upgrade", concurrency=8)
    assert strategy() == "RollingUpdate"
    release.install("upgrade", **alone)
    assert strategy() == "Recreate"


def test_the_pods_are_let_in_where_pods_are_restricted(release: Installation) -> None:
    """By the API server's own admission, with the Pod Security Standard that is hardest to meet."""
    release.install()
    api = release.lab.management.api
    path = f"/api/v1/namespaces/{NAMESPACE}"
    label = "pod-security.kubernetes.io/enforce"
    patch = "application/merge-patch+json"
    api._request("PATCH", path, {"metadata": {"labels": {label: "restricted"}}}, content_type=patch)
    try:
        for kind in ("Deployment", "Job"):
            template = next(it for it in release.objects() if it["kind"] == kind)["spec"]["template"]
            pod = {"metadata": {"name": f"tried-{kind.lower()}"}, "spec": template["spec"]}
            assert api.create(f"{path}/pods?dryRun=All", pod)["metadata"]["name"] == f"tried-{kind.lower()}"
            worse = {**template["spec"], "hostNetwork": True}
            with pytest.raises(ApiError, match="violates PodSecurity"):
                api.create(f"{path}/pods?dryRun=All", {**pod, "spec": worse})
    finally:
        api._request("PATCH", path, {"metadata": {"labels": {label: None}}}, content_type=patch)


def test_uninstall_stops_while_the_check_fails(release: Installation) -> None:
    release.install(podAnnotations=CHECK_FAILS)
    with pytest.raises(HelmRefused, match="uninstall-check"):
        release.uninstall("--timeout", "60s")
    assert find(release.lab.management, DEPLOYMENT) is not None
    release.uninstall("--no-hooks")
    assert find(release.lab.management, DEPLOYMENT) is None


def test_uninstall_with_jobs_left_says_what_to_do_and_there_is_a_way_out(release: Installation) -> None:
    management, worker = release.lab.management, release.lab.worker(1)
    release.install()
    controller = release.start()
    try:
        release.join(worker)
        management.api.create(JOBS, job("left"))
        until(lambda: find(worker, f"{JOBS}/left"), "the mirror is there")
        check = uninstall_check(release)
        assert check.returncode == 1
        assert (
            "1 Job with spec.managedBy jobdispatcher.io/dispatcher still needs this dispatcher"
            in check.stdout
        )
        assert "default/left" in check.stdout
        assert "helm uninstall --no-hooks" in check.stdout
    finally:
        controller.stop()
    release.uninstall("--no-hooks")
    # Deleted now, the Job waits for a dispatcher that never comes.
    management.api.delete(f"{JOBS}/left")
    held = management.api.get(f"{JOBS}/left")
    assert held["metadata"]["deletionTimestamp"]
    assert names.FINALIZER in held["metadata"]["finalizers"]
    done = release.dispatch("release", "--all", "-A")
    assert done.returncode == 0, done.stderr
    assert "job.batch/left in namespace default released" in done.stdout
    assert "workercluster.jobdispatcher.io/worker-1 released" in done.stdout
    until(lambda: find(management, f"{JOBS}/left") is None, "the Job is gone")
    assert find(worker, f"{JOBS}/left") is not None, "the mirror goes on until somebody deletes it"
    done = release.dispatch("release", "--all", "-A")
    assert "Nothing is held" in done.stderr
    management.api.delete(f"{CLUSTERS}/worker-1")
    assert find(management, f"{CLUSTERS}/worker-1") is None
    kubectl = [str(release.lab.kubectl), "--kubeconfig", str(worker.kubeconfig)]
    kubectl += ["delete", "jobs", "-A", "-l", names.ORIGIN_LABEL]
    subprocess.run(kubectl, check=True, capture_output=True, timeout=60)
    assert find(worker, f"{JOBS}/left") is None


def test_release_takes_off_one_finalizer_only_and_not_beside_a_running_dispatcher(
    release: Installation,
) -> None:
    management = release.lab.management
    release.install()
    manifest = job("held")
    manifest["metadata"]["finalizers"] = ["example.com/mine", names.FINALIZER]  # type: ignore[index]
    management.api.create(JOBS, manifest)
    status = {"status": {"replicas": 1}}
    patch = "application/merge-patch+json"
    management.api._request("PATCH", f"{DEPLOYMENT}/status", status, content_type=patch)
    done = release.dispatch("release", "held")
    assert done.returncode == 1
    assert f"Deployment {NAMESPACE}/{RELEASE} is a dispatcher that still runs" in done.stderr
    done = release.dispatch("release", "held", "--force")
    assert done.returncode == 0, done.stderr
    assert management.api.get(f"{JOBS}/held")["metadata"]["finalizers"] == ["example.com/mine"]
    for wrong in (["release"], ["release", "held", "--all"], ["release", "held", "-A"]):
        assert release.dispatch(*wrong).returncode == 2
    done = release.dispatch("release", "nobody")
    assert done.returncode == 1


def test_nothing_left_is_said_too(release: Installation) -> None:
    release.install()
    release.start().stop()  # for the account's kubeconfig
    done = uninstall_check(release)
    assert done.returncode == 0
    assert "no Job needs this dispatcher" in done.stdout


def uninstall_check(release: Installation) -> subprocess.CompletedProcess[str]:
    """The hook's own command, with the chart's account."""
    [container] = next(it for it in release.objects() if it["kind"] == "Job")["spec"]["template"]["spec"][
        "containers"
    ]
    command = [BIN / "job-dispatcher", *container["args"], "--kubeconfig", release.kubeconfig]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
