"""Real Jobs split over two local clusters: python -m hack.demo"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import yaml

from dispatcher.core import names
from dispatcher.core.placement import Share
from hack import commandline
from hack.demo import jobs
from hack.demo.screen import Screen
from hack.demo.view import View, look
from hack.lab import ComponentFailed, Lab, LabError
from hack.lab.gobuild import BuildFailed
from hack.lab.kubelet.machine import MachineError
from hack.lab.kubelet.support import make_possible
from hack.running import ClusterJobs, Controller, ControllerFailed, temporary_lab
from hack.running.view import registered, wait_available

JOB_SECONDS = 120.0
GONE_SECONDS = 60.0
LOGS_SECONDS = 60.0
KUBECTL_DISPATCH = Path(sys.executable).with_name("kubectl-dispatch")
FRAME_SECONDS = 0.1
"""Changes that come within this time are shown together."""


class DemoFailed(RuntimeError):
    """A Job did not do what it should."""


class Demonstration:
    """Shows Jobs of one lab, whose dispatcher runs."""

    def __init__(self, lab: Lab, screen: Screen, *, real: bool) -> None:
        """``real``: its pods truly run, so they have logs."""
        self._lab = lab
        self._real = real
        self._screen = screen
        self._changed = asyncio.Event()
        self._management = ClusterJobs(lab.management, on_change=self._note)
        self._workers = {plane.name: ClusterJobs(plane, on_change=self._note) for plane in lab.workers}

    def _note(self, _old: Any, _new: Any) -> None:
        self._changed.set()

    async def run(self) -> None:
        """The whole story. Raises DemoFailed."""
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(self._management)
            for worker in self._workers.values():
                await stack.enter_async_context(worker)
            self._screen.step("A Job with one field more: spec.managedBy")
            split = await self._complete(jobs.REAL_SPLIT if self._real else jobs.SPLIT)
            self._screen.step("An Indexed Job: every index runs once, under its own number")
            indexed = await self._complete(jobs.REAL_INDEXED if self._real else jobs.INDEXED)
            if self._real:
                self._screen.step("The logs of its pods, from both clusters, through the management cluster")
                await self._show_logs(indexed["metadata"]["name"])
            self._screen.step("Deleting both: their mirrors go first, then the Jobs")
            await self._delete((split, indexed))

    async def _complete(self, text: str) -> dict[str, Any]:
        manifest: dict[str, Any] = yaml.safe_load(text)
        manifest["metadata"]["namespace"] = jobs.NAMESPACE
        name = manifest["metadata"]["name"]
        self._screen.manifest(text)
        self._screen.note(f"kubectl apply -f {name}.yaml")
        created = await self._management.create(manifest)
        first: View | None = None
        end = time.monotonic() + JOB_SECONDS
        with self._screen.progress() as progress:
            while True:
                view = self._look(created)
                first = first or (view if view.parts else None)
                progress.show(view)
                if view.finished:
                    break
                await self._wait(end, f"Job {name} is {view.state} after {JOB_SECONDS:.0f} s")
        if view.state != "Complete" or first is None:
            raise DemoFailed(f"Job {name} ended as {view.state}")
        done = self._management.cache.get(jobs.NAMESPACE, name) or created
        status = done["status"]
        self._screen.note(f"Dispatched: {_message(done, names.DISPATCHED)}")
        shown = [f"{field} {status[field]}" for field in ("succeeded", "completedIndexes") if field in status]
        spent = f"{status['startTime']} to {status['completionTime']}"
        self._screen.note(f"Complete: {', '.join(shown)}; {spent}; {_message(done, 'Complete')}")
        self._screen.division(first, view)
        return done

    async def _show_logs(self, name: str) -> None:
        self._screen.note(f"kubectl dispatch logs {name}")
        process = await asyncio.create_subprocess_exec(
            KUBECTL_DISPATCH,
            *("-n", jobs.NAMESPACE, "logs", name),
            env={**os.environ, "KUBECONFIG": str(self._lab.management.kubeconfig)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(LOGS_SECONDS):
            said, refused = await process.communicate()
        self._screen.output(said.decode(errors="replace"))
        if process.returncode != 0:
            raise DemoFailed(f"kubectl dispatch logs: {refused.decode(errors='replace').strip()}")

    def _look(self, created: dict[str, Any]) -> View:
        metadata = created["metadata"]
        manifest = self._management.cache.get(metadata["namespace"], metadata["name"]) or created

        def find_mirror(share: Share) -> dict[str, Any] | None:
            return self._workers[share.cluster].cache.get(metadata["namespace"], share.mirror)

        return look(manifest, find_mirror)

    async def _delete(self, done: Iterable[dict[str, Any]]) -> None:
        before = {name: len(worker.cache) for name, worker in self._workers.items()}
        for job in done:
            await self._management.delete(job)
        end = time.monotonic() + GONE_SECONDS
        while len(self._management.cache) or any(len(worker.cache) for worker in self._workers.values()):
            await self._wait(end, f"Jobs are still there {GONE_SECONDS:.0f} s after they were deleted")
        for name, count in before.items():
            self._screen.note(f"{name}: {count} mirrors before, 0 left")
        self._screen.note("management: 0 Jobs left")

    async def _wait(self, end: float, otherwise: str) -> None:
        try:
            async with asyncio.timeout(end - time.monotonic()):
                await self._changed.wait()
        except TimeoutError:
            raise DemoFailed(otherwise) from None
        await asyncio.sleep(FRAME_SECONDS)
        self._changed.clear()


def _message(job: dict[str, Any], kind: str) -> str:
    conditions = job["status"].get("conditions", ())
    return next((str(entry.get("message", "")) for entry in conditions if entry["type"] == kind), "")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--workers", type=click.IntRange(min=1, max=6), default=2, show_default=True)
@click.option(
    "--nodes",
    type=click.Choice(["auto", "kubelet", "kwok"]),
    default="auto",
    show_default=True,
    help="Real nodes, fake ones, or real ones where they can run.",
)
def main(*, workers: int, nodes: str) -> None:
    """Start local clusters and a dispatcher, run split Jobs on them with live progress, leave nothing running."""
    screen = Screen()
    began = time.monotonic()
    screen.step(f"Starting a management cluster and {workers} worker clusters (real control planes)")
    with contextlib.ExitStack() as stack:
        lab, real = _start_lab(stack, screen, workers=workers, nodes=nodes)
        screen.step("Starting the dispatcher with its least-privileged account")
        address = stack.enter_context(registered(lab)) if real else ""
        controller = Controller.start(
            lab, environment={"JOB_DISPATCHER_VIEW_ADDRESS": address} if real else {}
        )
        screen.note("WorkerClusters Ready: " + ", ".join(plane.name for plane in lab.workers))
        try:
            if real:
                wait_available(lab)
            asyncio.run(Demonstration(lab, screen, real=real).run())
        except (DemoFailed, RuntimeError, TimeoutError):
            screen.note(f"The dispatcher's log ends with:\n{controller.last_words()}")
            raise
        finally:
            controller.stop()
        screen.step("Stopping everything")
    screen.note(f"Nothing is left running. {time.monotonic() - began:.0f} s in all.")


def _start_lab(stack: contextlib.ExitStack, screen: Screen, *, workers: int, nodes: str) -> tuple[Lab, bool]:
    """The lab, and whether its nodes are real."""

    def start(kind: str) -> Lab:
        return stack.enter_context(temporary_lab("demo", workers=workers, nodes=kind, report=screen.note))

    reason = make_possible(screen.note) if nodes == "auto" else None
    if nodes != "kwok" and reason is None:
        try:
            lab = start("kubelet")
        except (BuildFailed, ComponentFailed, LabError, MachineError) as error:
            if nodes == "kubelet":
                raise
            reason = f"real nodes do not start: {error}"
        else:
            screen.note("Nodes: a kubelet with containerd on each worker; the pods truly run")
            return lab, True
    lab = start("kwok")
    screen.note(f"Nodes: simulated by kwok, and their pods too{f' ({reason})' if reason else ''}")
    return lab, False


FAILURES = (BuildFailed, ComponentFailed, ControllerFailed, DemoFailed, LabError, RuntimeError, TimeoutError)


if __name__ == "__main__":
    commandline.run(main, failures=FAILURES, name="demo")
