"""The admission policies on a real API server, with the chart's account and with others."""

import functools
import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher.core import names
from hack.lab import Lab, Plane
from hack.lab.api import ApiError
from tests.chart.installation import Installation, find, forget_everything, job_path, strip, until

pytestmark = pytest.mark.lab

MERGE = "application/merge-patch+json"
JOBS = "/apis/batch/v1/namespaces/{}/jobs"


@pytest.fixture(scope="module")
def release(bare_lab: Lab) -> Iterator[Installation]:
    """The chart with both policies, and a dispatcher that uses its account."""
    installed = Installation(
        bare_lab,
        sets={
            "admissionPolicies.protectPlacement.enabled": True,
            "admissionPolicies.defaultManagedBy.enabled": True,
        },
    )
    installed.install()
    management = bare_lab.management
    for name, labels in (("labelled", {"jobdispatcher.io/dispatch": "enabled"}), ("plain", {})):
        management.api.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        )
        bare_lab.worker(1).api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    controller = installed.start()
    installed.join(bare_lab.worker(1))
    yield installed
    controller.stop()
    installed.uninstall("--no-hooks")
    until(lambda: not policies(management), "the policies are gone")
    until(lambda: unprotected(management), "nothing is enforced any more")
    forget_everything(bare_lab)


def policies(plane: Plane) -> list[Any]:
    path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies"
    found: list[Any] = plane.api.get(path)["items"]
    return [it for it in found if "protect-placement" in it["metadata"]["name"]]


def unprotected(plane: Plane) -> bool:
    try:
        for job in plane.api.get("/apis/batch/v1/jobs")["items"]:
            strip(plane, job_path(job), job)
    except ApiError as error:
        if error.code == 403:
            return False
        raise
    return True


def job(name: str, namespace: str, managed_by: str | None = names.DEFAULT_MANAGED_BY) -> dict[str, Any]:
    template = {
        "metadata": {"annotations": {"lab.jobdispatcher.io/script": '[{"exit": null}]'}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "example/c"}]},
    }
    spec: dict[str, Any] = {"template": template, **({"managedBy": managed_by} if managed_by else {})}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def dispatched(release: Installation, name: str) -> dict[str, Any]:
    """A running dispatched Job in the namespace plain."""
    management = release.lab.management
    management.api.create(JOBS.format("plain"), job(name, "plain"))
    path = f"{JOBS.format('plain')}/{name}"

    def placed() -> Any:
        found = management.api.get(path)
        return found if names.PLACEMENT_ANNOTATION in found["metadata"].get("annotations", {}) else None

    found: dict[str, Any] = until(placed, "the Job is placed")
    return found


def refuses(plane: Plane, path: str, patch: dict[str, Any], words: str) -> None:
    """The policy's refusal; it takes effect some time after it was made."""

    def refusal() -> ApiError | None:
        try:
            plane.api._request("PATCH", f"{path}?dryRun=All", patch, content_type=MERGE)
        except ApiError as error:
            return error
        return None

    error = until(refusal, "the policy is enforced", seconds=30)
    assert error.code == 403
    assert words in str(error)


def test_only_the_controller_changes_the_placement_and_its_finalizer(release: Installation) -> None:
    management = release.lab.management
    found = dispatched(release, "protected")
    path = f"{JOBS.format('plain')}/protected"
    annotation = {"metadata": {"annotations": {names.PLACEMENT_ANNOTATION: None}}}
    refuses(management, path, annotation, "changed by the dispatcher only")
    refuses(
        management,
        path,
        {"metadata": {"annotations": {names.PLACEMENT_ANNOTATION: "{}"}}},
        "changed by the dispatcher only",
    )
    refuses(management, f"{path}/status", annotation, "changed by the dispatcher only")
    refuses(management, path, {"metadata": {"finalizers": None}}, "kubectl dispatch release --help")
    # What is nobody's business but the owner's goes on.
    mine = {
        "metadata": {"annotations": {"example.com/mine": "1"}, "labels": {"a": "b"}},
        "spec": {"parallelism": 2},
    }
    management.api._request("PATCH", path, mine, content_type=MERGE)
    # The group for emergencies.
    command = [str(release.lab.kubectl), "--kubeconfig", str(management.kubeconfig), "--namespace", "plain"]
    command += ["patch", "job", "protected", "--type", "merge", "--patch", json.dumps(annotation)]
    command += ["--dry-run=server", "--as", "somebody", "--as-group", "system:masters"]
    run = functools.partial(subprocess.run, capture_output=True, text=True, check=False, timeout=60)
    assert run(command).returncode == 1
    done = run([*command, "--as-group", "jobdispatcher.io:break-glass"])
    assert done.returncode == 0, done.stderr
    # The controller itself writes both: the Job is deleted, mirror and finalizer go.
    assert found["metadata"]["finalizers"] == [names.FINALIZER]
    management.api.delete(path)
    until(lambda: find(management, path) is None, "the Job is gone")


def test_jobs_of_others_are_left_alone(release: Installation) -> None:
    management = release.lab.management
    manifest = job("foreign", "plain", "example.com/other")
    manifest["metadata"]["annotations"] = {names.PLACEMENT_ANNOTATION: "copied"}
    manifest["metadata"]["finalizers"] = [names.FINALIZER]
    management.api.create(JOBS.format("plain"), manifest)
    patch = {"metadata": {"finalizers": None, "annotations": None}}
    path = f"{JOBS.format('plain')}/foreign"
    management.api._request("PATCH", path, patch, content_type=MERGE)
    management.api.delete(path)


def test_new_jobs_in_labelled_namespaces_are_dispatched(release: Installation) -> None:
    management = release.lab.management

    def made(namespace: str, managed_by: str | None) -> Any:
        path = f"{JOBS.format(namespace)}?dryRun=All"
        return management.api.create(path, job("new", namespace, managed_by))["spec"].get("managedBy")

    until(lambda: made("labelled", None) == names.DEFAULT_MANAGED_BY, "the policy is in force", seconds=30)
    assert made("plain", None) is None
    assert made("labelled", "example.com/other") == "example.com/other"
    assert made("labelled", "kubernetes.io/job-controller") == "kubernetes.io/job-controller"
