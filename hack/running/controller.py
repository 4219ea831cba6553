"""The dispatcher as a process beside a lab, with its least-privileged account."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hack.lab import Lab, ports, processes

COMMAND = Path(sys.executable).with_name("job-dispatcher")
READY_SECONDS = 90.0
STOP_SECONDS = 15.0


class ControllerFailed(RuntimeError):
    """It did not get ready; the message has the end of its log."""


class Controller:
    """A running ``job-dispatcher run``. It carries the lab's mark, so that the lab's ``down`` ends it too."""

    def __init__(self, process: processes.ProcessId, *, log: Path, address: str) -> None:
        self._process = process
        self.log = log
        self.address = address

    @classmethod
    def start(
        cls,
        lab: Lab,
        *,
        managed_by: str | None = None,
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        command: Sequence[str] = (str(COMMAND),),
        wait: bool = True,
    ) -> Controller:
        """Start it and wait until it is synced and every worker cluster is Ready (or do not ``wait``).

        ``environment``: variables beside this process' own. ``options``: more of the command line.
        ``command``: what to run as ``job-dispatcher``.

        Raises ControllerFailed.
        """
        address = f"{ports.ADDRESS}:{ports.pick(1)[0]}"
        log = lab.folder / "logs" / "job-dispatcher.log"
        arguments = [*command, "run", "--kubeconfig", str(lab.dispatcher_kubeconfig)]
        arguments += ["--metrics-address", address, *(["--managed-by", managed_by] if managed_by else [])]
        arguments += options
        process = processes.spawn(
            arguments, lab=lab.folder, log=log, environment={**os.environ, **(environment or {})}
        )
        controller = cls(process, log=log, address=address)
        if wait:
            controller._wait_ready(lab)
        return controller

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def metrics(self) -> str:
        """What its /metrics says now."""
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=5.0) as response:
            return str(response.read(), "utf-8")

    def debug_state(self) -> dict[str, Any]:
        """What its /debug/state says now."""
        with urllib.request.urlopen(f"http://{self.address}/debug/state", timeout=60.0) as response:
            state: dict[str, Any] = json.load(response)
        return state

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return processes.is_running(self._process)

    @property
    def is_paused(self) -> bool:
        """Whether the process was stopped by SIGSTOP."""
        return processes.is_paused(self._process)

    def metric(self, sample: str) -> float:
        """One sample of its /metrics, by name and labels as they are written there; 0 where it is not."""
        for line in self.metrics().splitlines():
            if line.startswith(sample + " "):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def kill(self) -> None:
        """End it by SIGKILL, wherever it is."""
        processes.kill([self._process])

    def pause(self) -> None:
        """Freeze it (SIGSTOP)."""
        processes.send(self._process, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused one go on (SIGCONT)."""
        processes.send(self._process, signal.SIGCONT)

    def stop(self) -> None:
        """End it by SIGTERM; by SIGKILL if it takes longer than it promises."""
        processes.send(self._process, signal.SIGTERM)
        if processes.wait_gone([self._process], timeout=STOP_SECONDS):
            processes.kill([self._process])

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line[:400]}" for line in lines[-12:])

    def _wait_ready(self, lab: Lab) -> None:
        end = time.monotonic() + READY_SECONDS
        while not (self._answers("/readyz") and _clusters_ready(lab)):
            if not processes.is_running(self._process):
                raise ControllerFailed(f"job-dispatcher ended. Its log ends with:\n{self.last_words()}")
            if time.monotonic() > end:
                text = f"job-dispatcher not ready in {READY_SECONDS:.0f} s. Its log ends with:\n"
                raise ControllerFailed(text + self.last_words())
            time.sleep(0.05)

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.address}{path}", timeout=2.0) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _clusters_ready(lab: Lab) -> bool:
    """Whether every WorkerCluster says Ready=True."""
    clusters = lab.management.api.get("/apis/jobdispatcher.io/v1alpha1/workerclusters")["items"]
    return all(
        any(
            entry["type"] == "Ready" and entry["status"] == "True"
            for entry in cluster.get("status", {}).get("conditions", ())
        )
        for cluster in clusters
    )
