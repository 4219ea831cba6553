"""A work queue on a real queue server, which pods of both clusters empty."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.lab import Lab, ports, processes
from tests.e2e.work import Work, eventually

pytestmark = pytest.mark.lab

# Inline commands of Redis' protocol; the second line of the answer is an item, or that of QUIT when there is none.
WORKER = r"""
while :; do
    item=$(printf 'LPOP work\r\nQUIT\r\n' | nc "$SERVER" "$PORT" | sed -n 2p | tr -d '\r')
    case $item in item-*) echo "$item"; sleep 0.2;; +OK) exit 0;; *) exit 1;; esac
done
"""
ITEMS = 20


@pytest.fixture
def queue(real_lab: Lab, tmp_path: Path) -> Iterator[int]:
    """The port of a Redis server on all addresses of this machine, with ITEMS items in the list `work`."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("Debian's package redis-server is missing")
    [port] = ports.pick(1)
    options = ["--port", str(port), "--protected-mode", "no", "--save", "", "--dir", str(tmp_path)]
    server = processes.spawn(
        [program, *options], lab=real_lab.folder, log=tmp_path / "log", environment=os.environ
    )
    try:
        eventually(lambda: say(port, "PING"), lambda answer: answer.startswith("+PONG"))
        say(port, "RPUSH work " + " ".join(f"item-{number}" for number in range(ITEMS)))
        yield port
    finally:
        processes.kill([server])


def say(port: int, command: str) -> str:
    """One inline command; the answer, empty when nobody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(f"{command}\r\nQUIT\r\n".encode())
            return connection.makefile().read()
    except ConnectionRefusedError:
        return ""


def test_pods_of_both_clusters_empty_one_queue(work: Work, queue: int) -> None:
    server = {"name": "SERVER", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}
    port = {"name": "PORT", "value": str(queue)}
    work.create("queue", WORKER, restart="OnFailure", container={"env": [server, port]}, parallelism=4)
    kind, _, status = work.ended("queue")
    assert (kind, status["succeeded"], status.get("failed", 0)) == ("Complete", 4, 0)
    lines = work.logs("queue")
    assert sorted(line.split("] ")[1] for line in lines) == sorted(
        f"item-{number}" for number in range(ITEMS)
    )
    assert {line.split("/")[0] for line in lines} == {"[worker-1", "[worker-2"}
