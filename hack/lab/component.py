"""One process of a plane, as tests handle it: alive or not, killed, paused, started again as it was."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from hack.lab import processes
from hack.lab.api import Api
from hack.lab.components import Launch
from hack.lab.pki import PlaneCertificates
from hack.lab.ports import ADDRESS
from hack.lab.processes import ProcessId
from hack.lab.state import JSON, StateFile

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 120.0

# Go's garbage collector takes a third of an API server's time with the default; this trades 100 to 200 MB for it.
COLLECT_LESS = {"GOGC": "300", "GOMEMLIMIT": "1GiB"}


class ComponentFailed(RuntimeError):
    """A component ended, or did not get ready; the message has the end of its log."""


class PortTaken(ComponentFailed):
    """It ended because somebody took its port first."""


class Cancelled(Exception):
    """The lab's start was called off."""


class Component:
    """A component named `name` of plane `plane`. Everything about its process is in the lab's state file."""

    def __init__(self, state: StateFile, *, plane: str, name: str, certificates: PlaneCertificates) -> None:
        self._state = state
        self._plane = plane
        self._certificates = certificates
        self._api: Api | None = None
        self.name = name

    @classmethod
    def add(
        cls, state: StateFile, launch: Launch, *, plane: str, certificates: PlaneCertificates
    ) -> Component:
        """Records `launch` as a component that is not started yet (again, after a change of its ports)."""
        component = cls(state, plane=plane, name=launch.name, certificates=certificates)
        record = {
            "command": launch.command,
            "port": launch.port,
            "version": launch.version,
            "health": launch.health,
            "log": str(state.folder / "logs" / f"{plane}-{launch.name}.log"),
            "pid": None,
            "startTime": None,
        }
        state.update(lambda content: content["planes"][plane]["components"].update({launch.name: record}))
        return component

    @property
    def record(self) -> JSON:
        """Its part of the state file."""
        found: JSON = self._state.read()["planes"][self._plane]["components"][self.name]
        return found

    @property
    def process(self) -> ProcessId | None:
        """The process started last, running or not."""
        record = self.record
        return None if record["pid"] is None else ProcessId(record["pid"], record["startTime"])

    @property
    def pid(self) -> int | None:
        """The id of the process started last."""
        return self.process.pid if self.process else None

    @property
    def port(self) -> int | None:
        """Where it listens on the loopback interface."""
        port: int | None = self.record["port"]
        return port

    @property
    def log(self) -> Path:
        """Its output, of all its starts."""
        return Path(self.record["log"])

    def is_running(self) -> bool:
        """Whether its process exists (a paused one does)."""
        process = self.process
        return process is not None and processes.is_running(process)

    def is_paused(self) -> bool:
        """Whether it was paused."""
        process = self.process
        return process is not None and processes.is_paused(process)

    def is_healthy(self) -> bool:
        """Whether it says that it works."""
        record = self.record
        if record["health"] is None:
            return self.is_running()
        url = f"https://{ADDRESS}:{record['port']}"
        if self._api is None or self._api.url != url:
            self._api = Api(url, authority=self._certificates.authority, identity=self._certificates.admin)
        return self.is_running() and self._api.is_healthy(record["health"])

    def start(self, *, wait: bool = True) -> None:
        """Starts it with the same command, port and data as ever, and waits until it is healthy.

        Raises ComponentFailed, or RuntimeError when it runs already.
        """
        if self.is_running():
            raise RuntimeError(f"{self._plane}: {self.name} runs already")
        record = self.record
        environment = {**COLLECT_LESS, **os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        log = Path(record["log"])
        process = processes.spawn(record["command"], lab=self._state.folder, log=log, environment=environment)

        def remember(content: JSON) -> None:
            known = content["planes"][self._plane]["components"][self.name]
            known["pid"], known["startTime"] = process.pid, process.start_time

        self._state.update(remember)
        if wait:
            self.wait_healthy()

    def wait_healthy(self, *, timeout: float = READY_SECONDS, cancel: threading.Event | None = None) -> None:
        """Waits until it works.

        Raises ComponentFailed when it ended or takes longer than `timeout` seconds, Cancelled on `cancel`.
        """
        stop = cancel or threading.Event()
        end = time.monotonic() + timeout
        while not self.is_healthy():
            if stop.is_set():
                raise Cancelled
            if not self.is_running():
                text = self._last_words()
                taken = "address already in use" in text
                raise (PortTaken if taken else ComponentFailed)(f"{self._plane}: {self.name} ended.\n{text}")
            if time.monotonic() > end:
                raise ComponentFailed(
                    f"{self._plane}: {self.name} not ready in {timeout:.0f} s.\n{self._last_words()}"
                )
            stop.wait(0.1)

    def kill(self) -> None:
        """Ends it at once, as a crash would (SIGKILL), and waits until it is gone."""
        if process := self.process:
            processes.kill([process])

    def stop(self, *, timeout: float = 60.0) -> None:
        """Asks it to end (SIGTERM) and waits until it is gone.

        Raises TimeoutError.
        """
        process = self.process
        if process is None:
            return
        processes.send(process, signal.SIGTERM)
        if processes.wait_gone([process], timeout=timeout):
            raise TimeoutError(f"{self._plane}: {self.name} still runs {timeout:.0f} s after SIGTERM")

    def pause(self) -> None:
        """Freezes it (SIGSTOP): connections stay open, nothing is answered."""
        process = self.process
        if process is None or not processes.send(process, signal.SIGSTOP):
            raise RuntimeError(f"{self._plane}: {self.name} does not run")
        while processes.is_running(process) and not processes.is_paused(process):
            time.sleep(0.001)

    def resume(self) -> None:
        """Lets a paused one go on (SIGCONT)."""
        if process := self.process:
            processes.send(process, signal.SIGCONT)

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(["Its log ends with:", *(f"  {line[:400]}" for line in lines[-12:])])
