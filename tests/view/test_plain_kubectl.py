"""Plain kubectl on one worker, through the management API server and with a person's token there, on real planes."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hack.lab import Lab
from tests.cli.conftest import People
from tests.cli.plugin import Plugin, manifest, wait_until
from tests.view.streams import FOREVER, job

pytestmark = pytest.mark.lab

READ_PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
READ_LOGS = {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]}
WORKER = "worker-1"
PROXY = {
    "apiGroups": ["view.jobdispatcher.io"],
    "resources": ["clusters/proxy"],
    "resourceNames": [WORKER],
    "verbs": ["get"],
}


class Kubectl:
    """kubectl of a person, for one worker."""

    def __init__(self, lab: Lab, person: Plugin, worker: str = WORKER) -> None:
        server = f"{lab.management.url}/apis/view.jobdispatcher.io/v1alpha1/clusters/{worker}/proxy"
        program = str(lab.folder / "bin" / "kubectl")
        self._command = [program, "--kubeconfig", str(person.kubeconfig), "--server", server]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, check=False, timeout=120
        )

    def ok(self, *arguments: str) -> str:
        """Its output; it must end with 0."""
        done = self.run(*arguments)
        assert done.returncode == 0, done
        return done.stdout

    def refused(self, *arguments: str) -> str:
        """What it says when it fails."""
        done = self.run(*arguments)
        assert done.returncode != 0, done
        return done.stderr

    def start(self, out: Path, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start it, its output to a file."""
        with out.open("wb") as file:
            return subprocess.Popen([*self._command, *arguments], stdout=file, stderr=subprocess.STDOUT)


@pytest.fixture
def ann(people: People) -> Plugin:
    """A person who may read pods and logs of the namespace, and reach one worker."""
    made = people.make("ann")
    people.allow("ann", READ_PODS, READ_LOGS)
    people.allow("ann", PROXY, everywhere=True)
    return made


def test_pods_and_logs_with_a_persons_token(lab: Lab, ann: Plugin, pages: str) -> None:
    kubectl = Kubectl(lab, ann)
    header, *rows = kubectl.ok("get", "pods").splitlines()
    assert header.split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert len(rows) == 2
    assert all(row.startswith(f"{pages}-") and "Completed" in row for row in rows)
    name = rows[0].split()[0]
    assert kubectl.ok("get", "pod", name, "-o", "name").strip() == f"pod/{name}"
    assert kubectl.ok("logs", name) == "started\n"
    assert kubectl.ok("logs", name, "-c", "c", "--previous") == "crashed\n"
    assert kubectl.ok("logs", name, "--timestamps") == "2026-01-01T00:00:00.000000000Z started\n"
    assert kubectl.ok("logs", name, "--since", "1s") == ""
    assert kubectl.ok("logs", "-l", "batch.kubernetes.io/job-name=pages", "--prefix").count("started") == 2
    assert "container sidecar is not valid" in kubectl.refused("logs", name, "-c", "sidecar")
    assert "NotFound" in kubectl.refused("logs", "nothing")


def test_what_a_person_may_not(lab: Lab, people: People, ann: Plugin, pages: str) -> None:
    other = lab.workers[1].name
    assert "Forbidden" in Kubectl(lab, ann, other).refused("get", "pods")
    people.make("ben")
    people.allow("ben", READ_PODS)
    people.allow("ben", PROXY, everywhere=True)
    ben = Kubectl(lab, Plugin(ann.kubeconfig.with_name("ben.kubeconfig"), None))
    name = ben.ok("get", "pods", "-o", "name").splitlines()[0]
    said = ben.refused("logs", name)
    assert 'may not get resource "pods/log"' in said
    assert 'Missing: a rule {apiGroups: [""], resources: ["pods/log"], verbs: ["get"]}' in said
    assert "Forbidden" in ben.refused("get", "pods", "-n", "default")


def test_logs_are_followed(
    lab: Lab, plugin: Plugin, ann: Plugin, told: Callable[[str, str], None], tmp_path: Path
) -> None:
    plugin.ok("submit", "-f", "-", input=job("talk", "told", script=FOREVER, completions=3, parallelism=3))
    kubectl = Kubectl(lab, ann)
    wait_until(lambda: "Running" in kubectl.ok("get", "pods"))
    name = kubectl.ok("get", "pods", "-o", "name").strip()
    for number in (1, 2, 3):
        told(f"00:00:0{number}.0", f"line {number}")
    assert kubectl.ok("logs", name, "--tail", "2") == "line 2\nline 3\n"
    out = tmp_path / "out"
    following = kubectl.start(out, "logs", "-f", name, "--tail", "1", "--timestamps")
    shown = r"2026-01-01T00:00:0{0}\.0+Z line {0}\n"
    try:
        wait_until(lambda: re.fullmatch(shown.format(3), out.read_text()))
        told("00:00:04.0", "line 4")
        wait_until(lambda: re.fullmatch(shown.format(3) + shown.format(4), out.read_text()))
        assert following.poll() is None
    finally:
        following.kill()
        following.wait()


def test_pods_are_watched(lab: Lab, plugin: Plugin, ann: Plugin, pages: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    watching = Kubectl(lab, ann).start(out, "get", "pods", "-w", "--no-headers")

    def rows(beginning: str) -> list[list[str]]:
        return [line.split() for line in out.read_text().splitlines() if line.startswith(beginning)]

    try:
        wait_until(lambda: len(rows(f"{pages}-")) == 2)
        one = manifest("later", script=[{"after": "4s", "exit": 0}], completions=3, parallelism=3)
        plugin.ok("submit", "-f", "-", "--wait", input=one)
        wait_until(lambda: [row[2] for row in rows("later-")][-1:] == ["Completed"])
        assert "Running" in [row[2] for row in rows("later-")]
        assert len({row[0] for row in rows("later-")}) == 1, "of this worker only"
        assert len(rows(f"{pages}-")) == 2, "what was listed does not come again"
        assert watching.poll() is None, out.read_text()
    finally:
        watching.kill()
        watching.wait()
