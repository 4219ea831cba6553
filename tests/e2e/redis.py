"""A Redis server on this machine, which pods of all clusters reach by the address of their node."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from hack.lab import Lab, ports, processes
from hack.lab.api import JSON
from tests.e2e.work import eventually

PROGRAM = shutil.which("redis-server")
NEEDS = "Debian's package redis-server is missing"

# One connection for all items: an answer is read until it is complete, `$LENGTH` and the item, or `$-1` when there is
# none. What fails before the first item fails the container, which may be restarted then: it has taken nothing.
CONNECTION = r"""
cd "$(mktemp -d)"
mkfifo asked answered
nc "$SERVER" "$PORT" <asked >answered &
exec 3>asked 4<answered
take() {
    printf 'LPOP %s\r\n' "$QUEUE" >&3
    read -r length <&4 || exit 3
    case $length in '$-1'*) return 1;; '$'*) read -r item <&4 || exit 3;; *) exit 3;; esac
    item=${item%?} # without the carriage return
}
"""
ONE = f'{CONNECTION} take; echo "$item"'
"""A script that takes one item, and fails when there is none."""
ALL = f'{CONNECTION} while take; do echo "$item"; sleep 0.2; done'
"""A script that takes items until there is none."""


@contextlib.contextmanager
def server(lab: Lab, folder: Path, **lists: int) -> Iterator[int]:
    """Its port; `folder` is an empty one. Each list has so many items, item-0, item-1, …"""
    assert PROGRAM is not None
    [port] = ports.pick(1)
    options = ["--port", str(port), "--protected-mode", "no", "--save", "", "--dir", str(folder)]
    process = processes.spawn([PROGRAM, *options], lab=lab.folder, log=folder / "log", environment=os.environ)
    try:
        eventually(lambda: say(port, "PING"), lambda answer: answer.startswith("+PONG"))
        for name, count in lists.items():
            say(port, f"RPUSH {name} " + " ".join(items(count)))
        yield port
    finally:
        processes.kill([process])


def items(count: int) -> list[str]:
    """What a list of that length holds."""
    return [f"item-{number}" for number in range(count)]


def environment(port: int, *, queue: str) -> list[JSON]:
    """Variables of a container that takes from the list `queue`."""
    return [
        {"name": "SERVER", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
        {"name": "PORT", "value": str(port)},
        {"name": "QUEUE", "value": queue},
    ]


def say(port: int, command: str) -> str:
    """One inline command; the answer, empty when nobody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(f"{command}\r\nQUIT\r\n".encode())
            return connection.makefile().read()
    except ConnectionRefusedError:
        return ""
