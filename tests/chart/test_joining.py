"""join, rotate and unjoin on real planes: what they make, what they refuse, and that the tokens are what they say."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from dispatcher.clusters.account_token import AccountToken, read_token, token_in
from dispatcher.commands import kubectl
from dispatcher.commands.worker_account import account_manifests
from dispatcher.core import names
from hack.generate.files import CHARTS
from hack.lab import Lab, Plane
from hack.running.controller import Controller
from tests.chart.charts import NAMESPACE
from tests.chart.installation import CLUSTERS, Installation, delete, find, forget_everything, until

pytestmark = pytest.mark.lab

ACCOUNT = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/job-dispatcher"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
ROLE = f"{RBAC}/clusterroles/job-dispatcher"
OTHERS = (
    f"{RBAC}/clusterrolebindings/job-dispatcher",
    f"{RBAC}/namespaces/{NAMESPACE}/roles/job-dispatcher",
    f"{RBAC}/namespaces/{NAMESPACE}/rolebindings/job-dispatcher",
)


@pytest.fixture(scope="module")
def release(bare_lab: Lab) -> Iterator[Installation]:
    """The chart as it comes, without a dispatcher running."""
    installed = Installation(bare_lab)
    installed.install()
    yield installed
    forget_everything(bare_lab)
    installed.uninstall("--no-hooks")


@pytest.fixture(scope="module")
def controller(release: Installation) -> Iterator[Controller]:
    """A dispatcher with the chart's account."""
    running = release.start()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def clean(release: Installation) -> Iterator[None]:
    """No cluster is joined, no account is there."""
    yield
    forget_everything(release.lab)
    for worker in release.lab.workers:
        for path in (ACCOUNT, ROLE, *OTHERS):
            delete(worker, path)


def secret_token(management: Plane, name: str) -> AccountToken:
    """The token in a registration's Secret."""
    secret = management.api.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{name}")
    token = read_token(token_in(base64.b64decode(secret["data"]["kubeconfig"]).decode()) or "")
    assert token is not None
    return token


def works(worker: Plane, token: str) -> bool:
    """Whether the worker accepts a token."""
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    status = worker.api.create("/apis/authentication.k8s.io/v1/tokenreviews", request)["status"]
    return bool(status.get("authenticated"))


def joined(release: Installation, *arguments: str) -> str:
    """Join worker-1, expecting a refusal; what it says."""
    worker = release.lab.worker(1)
    done = release.dispatch("join", "worker-1", "--worker-kubeconfig", worker.kubeconfig, *arguments)
    assert done.returncode != 0, done.stdout
    return done.stderr


def test_join_without_a_dispatcher_says_that_none_runs(release: Installation) -> None:
    assert "no dispatcher has looked at WorkerCluster worker-1" in joined(release, "--timeout", "1s")


def test_join_without_the_chart_says_so(release: Installation) -> None:
    """A worker in the place of the management cluster."""
    first, second = release.lab.workers
    command = ["join", "x", "--kubeconfig", str(first.kubeconfig)]
    command += ["--worker-kubeconfig", str(second.kubeconfig)]
    result = CliRunner().invoke(kubectl.commands, command)
    assert result.exit_code == 1
    assert "knows no WorkerClusters: install the chart" in result.output


def test_join_rotate_revoke_and_unjoin(release: Installation, controller: Controller) -> None:
    worker, management = release.lab.worker(1), release.lab.management
    output = release.join(worker, "--label", "region=eu", "--weight", "3", "--token-duration", "20m")
    assert output.splitlines()[-1].startswith("workercluster.jobdispatcher.io/worker-1 is ready (v1.")
    cluster = management.api.get(f"{CLUSTERS}/worker-1")
    assert cluster["metadata"]["labels"] == {"region": "eu"}
    assert cluster["spec"]["weight"] == 3
    secret = management.api.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/worker-1")
    assert secret["metadata"]["labels"][names.TOKEN_RENEWAL_LABEL] == names.TOKEN_RENEWAL_ENABLED
    first = secret_token(management, "worker-1")
    assert (first.namespace, first.account) == (NAMESPACE, "job-dispatcher")
    assert first.life.total_seconds() == 1200
    # Again, under another name: refused; under the same name: nothing but a new token.
    done = release.dispatch("join", "other", "--worker-kubeconfig", worker.kubeconfig)
    assert done.returncode == 1
    assert "joined already, as WorkerCluster worker-1" in done.stderr
    release.join(worker)
    # Another cluster under this name.
    other = release.lab.worker(2)
    done = release.dispatch("join", "worker-1", "--worker-kubeconfig", other.kubeconfig)
    assert done.returncode == 1
    assert "WorkerCluster worker-1 is another cluster" in done.stderr
    assert find(other, ACCOUNT) is None
    done = release.dispatch("rotate", "worker-1", "--worker-kubeconfig", other.kubeconfig)
    assert done.returncode == 1
    assert "leads to another cluster" in done.stderr
    # A new token beside the old one, then instead of all old ones.
    done = release.dispatch("rotate", "worker-1", "--worker-kubeconfig", worker.kubeconfig)
    assert done.returncode == 0, done.stderr
    second = secret_token(management, "worker-1")
    assert second.text != first.text
    assert works(worker, first.text)
    done = release.dispatch("rotate", "worker-1", "--worker-kubeconfig", worker.kubeconfig, "--revoke")
    assert done.returncode == 0, done.stderr
    assert "the older tokens are revoked" in done.stdout
    third = secret_token(management, "worker-1")
    until(lambda: not works(worker, second.text), "the second token ends", seconds=30)
    assert works(worker, third.text)
    done = release.dispatch("unjoin", "worker-1", "--worker-kubeconfig", worker.kubeconfig)
    assert done.returncode == 0, done.stderr
    assert find(management, f"{CLUSTERS}/worker-1") is None
    assert find(management, f"/api/v1/namespaces/{NAMESPACE}/secrets/worker-1") is None
    assert find(worker, ACCOUNT) is None
    assert find(worker, ROLE) is None
    assert find(worker, f"/api/v1/namespaces/{NAMESPACE}") is not None


def test_unjoin_is_refused_while_work_is_there(release: Installation, controller: Controller) -> None:
    worker, management = release.lab.worker(1), release.lab.management
    release.join(worker)
    template: dict[str, Any] = {
        "metadata": {"annotations": {"lab.jobdispatcher.io/script": '[{"exit": null}]'}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "example/c"}]},
    }
    job: dict[str, Any] = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "endless", "namespace": "default"},
        "spec": {"managedBy": names.DEFAULT_MANAGED_BY, "template": template},
    }
    jobs = "/apis/batch/v1/namespaces/default/jobs"
    management.api.create(jobs, job)
    until(lambda: find(worker, f"{jobs}/endless"), "the mirror is there")
    done = release.dispatch("unjoin", "worker-1", "--worker-kubeconfig", worker.kubeconfig)
    assert done.returncode == 1
    assert "1 Jobs have unfinished work on worker-1 (default/endless)" in done.stderr
    assert "kubectl dispatch drain worker-1" in done.stderr
    assert find(management, f"{CLUSTERS}/worker-1") is not None
    management.api.delete(f"{jobs}/endless")
    until(lambda: find(management, f"{jobs}/endless") is None, "the Job is gone")
    # A finished one is no obstacle; its mirror goes with the registration.
    job["metadata"]["name"] = "quick"
    template["metadata"]["annotations"] = {}
    management.api.create(jobs, job)
    until(lambda: management.api.get(f"{jobs}/quick")["status"].get("succeeded"), "the Job is done")
    done = release.dispatch("unjoin", "worker-1")
    assert done.returncode == 0, done.stderr
    assert "its account is still on the worker cluster" in done.stderr
    assert find(worker, f"{jobs}/quick") is None


def test_a_dry_run_shows_objects_that_a_cluster_takes_and_changes_nothing(
    release: Installation, controller: Controller
) -> None:
    """The way of GitOps: the objects are applied, then rotate brings the first token."""
    worker, management = release.lab.worker(1), release.lab.management
    arguments = ("join", "worker-1", "--worker-kubeconfig", worker.kubeconfig, "--dry-run")
    done = release.dispatch(*arguments, "-o", "yaml")
    assert done.returncode == 0, done.stderr
    shown = list(yaml.safe_load_all(done.stdout))
    assert [it["kind"] for it in shown] == [
        *("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"),
        *("Secret", "WorkerCluster"),
    ]
    assert find(worker, ACCOUNT) is None
    assert find(management, f"{CLUSTERS}/worker-1") is None
    listed = json.loads(release.dispatch(*arguments, "-o", "json").stdout)
    assert listed["items"] == shown
    text = release.dispatch(*arguments).stdout
    assert "management cluster: WorkerCluster worker-1 (dry run)" in text
    for side, plane in (("worker", worker), ("management", management)):
        done = release.dispatch(*arguments, "-o", "yaml", "--only", side)
        for manifest in yaml.safe_load_all(done.stdout):
            plane.api.apply(manifest)

    def reason() -> str:
        conditions = management.api.get(f"{CLUSTERS}/worker-1").get("status", {}).get("conditions", [{}])
        return str(conditions[0].get("reason"))

    until(lambda: reason() == "SecretKeyMissing", "the dispatcher says what is missing")
    done = release.dispatch("rotate", "worker-1", "--worker-kubeconfig", worker.kubeconfig)
    assert done.returncode == 0, done.stderr
    assert "worker-1 is ready" in done.stdout
    # What GitOps applies from then on leaves the data alone.
    before = secret_token(management, "worker-1").text
    management.api.apply(shown[-2])
    assert secret_token(management, "worker-1").text == before


def test_an_existing_account_is_used_as_it_is(release: Installation, controller: Controller) -> None:
    worker = release.lab.worker(1)
    assert "has no ServiceAccount job-dispatcher/job-dispatcher" in joined(release, "--existing-account")
    for manifest in yaml.safe_load_all((CHARTS / "job-dispatcher-worker" / "manifest.yaml").read_text()):
        worker.api.apply(manifest)
    before = worker.api.get(ACCOUNT)["metadata"]
    assert "is ready" in release.join(worker, "--existing-account")
    assert worker.api.get(ACCOUNT)["metadata"]["uid"] == before["uid"]
    assert worker.api.get(ACCOUNT)["metadata"]["labels"] == before["labels"]


def test_the_account_of_a_chart_keeps_its_rights(release: Installation, controller: Controller) -> None:
    """join, with nothing said about the account, and unjoin leave alone what they did not make."""
    worker = release.lab.worker(1)
    features = ("core", "tokenRenewal", "nodes")
    for manifest in account_manifests(
        namespace=NAMESPACE, account="job-dispatcher", features=features, manager="Helm"
    ):
        worker.api.apply(manifest)
    before = worker.api.get(ROLE)
    assert "view.enabled of the chart job-dispatcher-worker" in joined(release, "--view")
    output = release.join(worker)
    assert (
        "account job-dispatcher/job-dispatcher on the worker cluster is kept by Helm: used as it is" in output
    )
    assert worker.api.get(ROLE)["rules"] == before["rules"]
    assert worker.api.get(ROLE)["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    done = release.dispatch("unjoin", "worker-1", "--worker-kubeconfig", worker.kubeconfig)
    assert done.returncode == 0, done.stderr
    assert "is kept by Helm, not by these commands" in done.stderr
    assert worker.api.get(ROLE)["rules"] == before["rules"]
    # Only a role is somebody else's: it is not written over, and nothing else is made.
    delete(worker, ACCOUNT)
    assert "not overwritten on the worker: ClusterRole job-dispatcher (Helm)" in joined(release)
    assert find(worker, ACCOUNT) is None


def test_join_says_which_rights_its_own_account_loses(release: Installation, controller: Controller) -> None:
    worker = release.lab.worker(1)
    release.join(worker, "--view")
    arguments = ("join", "worker-1", "--worker-kubeconfig", worker.kubeconfig, "--no-view")
    done = release.dispatch(*arguments)
    assert done.returncode == 0, done.stderr
    lost = "the account on the worker had more rights and loses: list events; get, list pods; get pods/log"
    assert lost in done.stderr
    assert "loses" not in release.dispatch(*arguments).stderr


def test_what_cannot_work_is_refused_before_anything_is_made(release: Installation) -> None:
    management, worker = release.lab.management, release.lab.worker(1)
    done = release.dispatch("join", "self", "--worker-kubeconfig", management.kubeconfig)
    assert done.returncode == 1
    assert "leads to the management cluster itself" in done.stderr
    foreign = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "worker-1", "namespace": NAMESPACE},
        "type": "Opaque",
    }
    management.api.apply(foreign)
    assert "was not made by `kubectl dispatch join`" in joined(release)
    assert find(worker, ACCOUNT) is None
    done = release.dispatch("join", "worker-1")
    assert done.returncode == 2
    assert "--worker-context" in done.stderr
    assert "a token lives for 10m at least" in joined(release, "--token-duration", "5m")
    assert "-o and --only go with --dry-run" in joined(release, "-o", "yaml")
    done = release.dispatch("unjoin", "nobody")
    assert done.returncode == 1
    assert '"nobody" not found' in done.stderr
    config = yaml.safe_load(worker.kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    del cluster["certificate-authority-data"]
    cluster["insecure-skip-tls-verify"] = True
    insecure = release.lab.folder / "insecure.kubeconfig"
    insecure.write_text(yaml.safe_dump(config))
    done = release.dispatch("join", "insecure", "--worker-kubeconfig", insecure)
    assert done.returncode == 1
    assert "skips TLS verification" in done.stderr
    assert find(worker, ACCOUNT) is None
