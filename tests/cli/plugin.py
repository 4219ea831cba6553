"""Running ``kubectl-dispatch``, with and without a terminal."""

import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hack.lab import Lab
from hack.running.terminal import Session

PROGRAM = Path(sys.executable).with_name("kubectl-dispatch")
MANAGED_BY = "jobdispatcher.io/cli"
WAIT_SECONDS = 60.0


def wait_until(condition: Callable[[], Any], *, seconds: float = WAIT_SECONDS) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(0.05)


class Plugin:
    """The plugin with one identity, and in one namespace (None: the context's)."""

    def __init__(self, kubeconfig: Path, namespace: str | None) -> None:
        self.namespace = namespace
        self.kubeconfig = kubeconfig

    def environment(self, **more: str) -> dict[str, str]:
        """The identity is in KUBECONFIG; the dispatcher's value in its variable, as a person might set it."""
        kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        ours = {"KUBECONFIG": str(self.kubeconfig), "JOB_DISPATCHER_MANAGED_BY": MANAGED_BY}
        return {**kept, **ours, **more}

    def command(self, *arguments: str) -> list[str]:
        """What is run; the namespace stands before the verb, as options may."""
        place = ["-n", self.namespace] if self.namespace else []
        return [str(PROGRAM), *place, *arguments]

    def run(self, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run it to its end, without a terminal."""
        return subprocess.run(
            self.command(*arguments),
            input=input,
            stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=WAIT_SECONDS,
            env=self.environment(),
        )

    def ok(self, *arguments: str, input: str | None = None) -> str:
        """Its output; it must end with 0."""
        done = self.run(*arguments, input=input)
        assert done.returncode == 0, done
        return done.stdout

    def refused(self, *arguments: str, code: int = 1, input: str | None = None) -> str:
        """What it says on standard error when it ends with this code."""
        done = self.run(*arguments, input=input)
        assert done.returncode == code, done
        assert "Traceback" not in done.stderr
        return done.stderr

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it, without a terminal."""
        return subprocess.Popen(
            self.command(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(),
        )

    def on_a_terminal(
        self, *arguments: str, environment: Mapping[str, str] | None = None, size: tuple[int, int] = (24, 140)
    ) -> Session:
        """Start it on a terminal of so many lines and columns."""
        return Session(
            self.command(*arguments),
            environment=self.environment(TERM="xterm-256color", **(environment or {})),
            size=size,
        )


def manifest(name: str, *, script: object = None, kind: str = "Job", **spec: Any) -> str:
    """A Job, or a CronJob of it, as a text; ``script`` says what its pods do (none: succeed at once)."""
    template: dict[str, Any] = {
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "example.com/none"}]}
    }
    if script is not None:
        template["metadata"] = {"annotations": {"lab.jobdispatcher.io/script": json.dumps(script)}}
    job_spec = {"template": template, **spec}
    metadata = {"name": name}
    if kind == "CronJob":
        job_spec = {"schedule": "0 3 1 1 *", "jobTemplate": {"spec": job_spec}}
    return json.dumps({"apiVersion": "batch/v1", "kind": kind, "metadata": metadata, "spec": job_spec})


@contextlib.contextmanager
def namespace_everywhere(lab: Lab, prefix: str) -> Iterator[str]:
    """A namespace on all planes; its management Jobs are deleted at the end, while a dispatcher runs."""
    name = f"{prefix}-{uuid.uuid4().hex[:8]}"
    for plane in lab.planes:
        plane.api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    jobs = f"/apis/batch/v1/namespaces/{name}/jobs"
    for job in lab.management.api.get(jobs)["items"]:
        lab.management.api.delete(f"{jobs}/{job['metadata']['name']}")
    wait_until(lambda: not lab.management.api.get(jobs)["items"])
