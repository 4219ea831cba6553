"""get, describe and submit on real planes."""

import json
import signal
import subprocess
from typing import Any

import pytest
import yaml

from dispatcher.core.names import PREFERENCES_ANNOTATION
from hack.lab import Lab
from hack.running.controller import Controller
from tests.cli.plugin import Plugin, manifest

pytestmark = pytest.mark.usefixtures("controller")

NEVER_ENDS = [{"exit": None}]
INDEXED: dict[str, Any] = {"completionMode": "Indexed", "completions": 9, "parallelism": 9}


def test_a_job_is_submitted_followed_listed_and_described(plugin: Plugin) -> None:
    said = plugin.ok("submit", "-f", "-", "--wait", input=manifest("pages", **INDEXED))
    assert said.splitlines()[0] == "job.batch/pages created"
    assert said.splitlines()[-1] == "job.batch/pages complete"
    [line] = plugin.ok("get", "--no-headers").splitlines()
    assert line.split()[:4] == ["pages", "Complete", "9/9", "0"]
    assert line.split()[5] == "worker-1:3/3,worker-2:3/3,worker-3:3/3"
    described = plugin.ok("describe", "pages")
    shares = [line.split() for line in described.splitlines() if line.startswith("  worker-")]
    assert [(it[0], it[1], it[3], it[4], it[7]) for it in shares] == [
        (f"worker-{n + 1}", "pages", f"{3 * n}-{3 * n + 2}", "3", "Finished") for n in range(3)
    ]
    conditions = described[described.index("\nConditions:") : described.index("\nEvents:")]
    assert {"Dispatched", "SuccessCriteriaMet", "Complete"} <= set(conditions.split())
    assert "Divided over 3 clusters" in described[described.index("\nEvents:") :]


def test_objects_are_the_servers_own(plugin: Plugin, lab: Lab) -> None:
    plugin.ok("submit", "-f", "-", input=manifest("one", suspend=True))
    stored = lab.management.api.get(f"/apis/batch/v1/namespaces/{plugin.namespace}/jobs/one")
    printed = json.loads(plugin.ok("get", "one", "-o", "json"))
    assert printed["spec"] == stored["spec"]
    assert printed["metadata"]["uid"] == stored["metadata"]["uid"]
    listed = yaml.safe_load(plugin.ok("get", "-o", "yaml"))
    assert [item["kind"] for item in listed["items"]] == ["Job"]


def test_by_label_and_over_all_namespaces(plugin: Plugin, lab: Lab) -> None:
    for name, team in (("a", "x"), ("b", "y")):
        job = json.loads(manifest(name, suspend=True))
        job["metadata"]["labels"] = {"team": team, "test": str(plugin.namespace)}
        plugin.ok("submit", "-f", "-", input=json.dumps(job))
    assert [line.split()[0] for line in plugin.ok("get", "-l", "team=y", "--no-headers").splitlines()] == [
        "b"
    ]
    everywhere = plugin.ok("get", "-A", "-l", f"test={plugin.namespace}", "--no-headers")
    assert [line.split()[:2] for line in everywhere.splitlines()] == [
        [plugin.namespace, "a"],
        [plugin.namespace, "b"],
    ]
    lab.management.api.create(
        f"/apis/batch/v1/namespaces/{plugin.namespace}/jobs", json.loads(manifest("local", suspend=True))
    )
    assert "local" not in plugin.ok("get")
    assert "is not dispatched: its spec.managedBy is not set" in plugin.refused("describe", "local")


def test_a_job_that_there_is_not(plugin: Plugin) -> None:
    for arguments in (["get", "nope"], ["describe", "nope"], ["get", "nope", "-w"]):
        assert plugin.refused(*arguments) == 'Error from server (NotFound): jobs.batch "nope" not found\n'


def test_a_failed_job_is_exit_code_1(plugin: Plugin) -> None:
    text = manifest("bad", backoffLimit=0, script=[{"exit": 3}])
    said = plugin.refused("submit", "-f", "-", "--wait", input=text)
    assert said == "job.batch/bad failed: BackoffLimitExceeded: Job has reached the specified backoff limit\n"
    assert "Why:" in plugin.ok("describe", "bad")


def test_a_job_that_is_deleted_while_it_is_watched(plugin: Plugin, lab: Lab) -> None:
    path = f"/apis/batch/v1/namespaces/{plugin.namespace}/jobs/long"
    with plugin.start("get", "-w") as watching:
        plugin.ok("submit", "-f", "-", input=manifest("long", script=NEVER_ENDS))
        read_until(watching, "Running")
        lab.management.api.delete(path)
        read_until(watching, "Deleted")
        watching.send_signal(signal.SIGINT)
        _, errors = watching.communicate(timeout=60)
    assert (watching.returncode, errors) == (130, "")


def test_a_job_that_is_deleted_before_its_end(plugin: Plugin, lab: Lab) -> None:
    path = f"/apis/batch/v1/namespaces/{plugin.namespace}/jobs"
    job = json.loads(manifest("long", script=NEVER_ENDS))
    file = lab.folder / f"{plugin.namespace}.json"
    file.write_text(json.dumps(job))
    with plugin.start("submit", "-f", str(file), "--wait") as following:
        read_until(following, "Running")
        lab.management.api.delete(f"{path}/long")
        _, errors = following.communicate(timeout=60)
    assert (following.returncode, errors) == (1, "job.batch/long has no result: it was deleted\n")


def read_until(process: subprocess.Popen[str], text: str) -> None:
    """Read lines until one has this text."""
    assert process.stdout is not None
    while text not in (line := process.stdout.readline()):
        assert line, f"it ended before {text}"


def test_waiting_ends_with_its_timeout(plugin: Plugin) -> None:
    text = manifest("long", script=NEVER_ENDS)
    said = plugin.refused("submit", "-f", "-", "--wait", "--timeout", "2s", input=text)
    assert said == "error: not finished within 2s: long; the Jobs go on\n"


def test_the_chosen_clusters(plugin: Plugin, lab: Lab) -> None:
    said = plugin.refused("submit", "-f", "-", "--clusters", "worker-1,moon", input=manifest("x"))
    assert said == "error: no worker cluster moon; there are worker-1, worker-2, worker-3\n"
    text = manifest("two", completions=4, parallelism=4)
    plugin.ok("submit", "-f", "-", "--clusters", "worker-1,worker-3", "--wait", input=text)
    assert plugin.ok("get", "two", "--no-headers").split()[5] == "worker-1:2/2,worker-3:2/2"


def test_several_documents_and_a_cronjob(plugin: Plugin, lab: Lab) -> None:
    config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {day: '2026-01-01'}\n"
    nightly = manifest("nightly", kind="CronJob")
    text = "\n---\n".join([config, manifest("a"), nightly, "# nothing\n"])
    said = plugin.ok("submit", "-f", "-", "--clusters", "worker-2", "--wait", input=text)
    created = ["configmap/settings created", "job.batch/a created", "cronjob.batch/nightly created"]
    assert said.splitlines()[:3] == created
    stored = lab.management.api.get(f"/apis/batch/v1/namespaces/{plugin.namespace}/cronjobs/nightly")
    template = stored["spec"]["jobTemplate"]
    assert template["spec"]["managedBy"] == "jobdispatcher.io/cli"
    assert json.loads(template["metadata"]["annotations"][PREFERENCES_ANNOTATION]) == {
        "clusters": {"worker-2": {"weight": 1}}
    }


@pytest.mark.parametrize(
    ("text", "code", "complaint"),
    [
        ("{", 2, "standard input: "),
        ("[]", 2, "standard input: holds a list, not a Kubernetes object"),
        ("", 2, "-: no objects"),
        ("{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}", 2, "there is no Job and no CronJob"),
        (manifest("x", managedBy="a.b/c"), 2, "Job x is another controller's: its spec.managedBy is a.b/c"),
        (manifest("x", nonsense=1), 1, 'unknown field "spec.nonsense"'),
        (manifest("X_"), 1, "Error from server (Invalid): "),
        (
            '{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}}\n---\n'
            + manifest("x"),
            1,
            'no matches for kind "Widget" in version "example.com/v1"',
        ),
    ],
)
def test_files_that_cannot_be_used(plugin: Plugin, text: str, code: int, complaint: str) -> None:
    assert complaint in plugin.refused("submit", "-f", "-", code=code, input=text)
    assert plugin.run("get").stdout == ""


def test_what_the_dispatcher_never_saw(plugin: Plugin, controller: Controller) -> None:
    """Pending, in words: nobody has looked at the Job."""
    text = manifest("alone").replace('"spec": {', '"spec": {"managedBy": "jobdispatcher.io/nobody", ', 1)
    nobody = ("--managed-by", "jobdispatcher.io/nobody")
    plugin.ok("submit", "-f", "-", *nobody, input=text)
    assert plugin.ok("get", *nobody, "--no-headers").split()[1] == "Pending"
    assert "Shares:  <none>" in plugin.ok("describe", "alone", *nobody)
