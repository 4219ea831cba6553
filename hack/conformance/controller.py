"""The dispatcher under test as a process of its own, for as long as a suite runs."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp

READY_WITHIN = 60.0


class ControllerFailed(RuntimeError):
    """It did not become ready, or ended; the message says where its log is."""


class Controller:
    """A running `job-dispatcher run`. ``log`` is its output."""

    def __init__(self, address: str, log: Path) -> None:
        self.address = address
        self.log = log

    async def metric(self, name: str) -> float:
        """The sum of all series of a metric; 0 without any."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{self.address}/metrics") as response,
        ):
            text = await response.text()
        values = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, values))


@contextlib.asynccontextmanager
async def controller(
    kubeconfig: Path, *, log: Path, managed_by: str | None = None
) -> AsyncIterator[Controller]:
    """Starts it, waits until it is ready, and ends it by SIGTERM.

    Raises ControllerFailed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [str(Path(sys.executable).with_name("job-dispatcher")), "run"]
    command += ["--kubeconfig", str(kubeconfig), "--metrics-address", address]
    if managed_by is not None:
        command += ["--managed-by", managed_by]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output)
        try:
            await _wait_ready(address, process, log)
            yield Controller(address, log)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), 15)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _wait_ready(address: str, process: asyncio.subprocess.Process, log: Path) -> None:
    end = asyncio.get_running_loop().time() + READY_WITHIN
    async with aiohttp.ClientSession() as session:
        while True:
            if process.returncode is not None:
                raise ControllerFailed(f"the dispatcher ended with {process.returncode}; its log: {log}")
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://{address}/readyz") as response:
                    if response.status == 200:
                        return
            if asyncio.get_running_loop().time() > end:
                raise ControllerFailed(
                    f"the dispatcher is not ready after {READY_WITHIN:.0f} s; its log: {log}"
                )
            await asyncio.sleep(0.1)
