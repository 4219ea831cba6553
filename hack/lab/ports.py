"""Free ports on the loopback interface."""

from __future__ import annotations

import random
import socket
from pathlib import Path

ADDRESS = "127.0.0.1"


def pick(count: int) -> list[int]:
    """`count` different ports that nothing listens on.

    They lie below the range from which the kernel takes ports for outgoing connections: one from there could be taken
    between our choice and a server's start, or while a test has the server stopped.
    """
    first, last = 20_000, _first_ephemeral() - 1
    if last - first < 1_000:
        first, last = 20_000, 32_000
    chosen: list[int] = []
    generator = random.SystemRandom()
    for _ in range(200 * count):
        port = generator.randint(first, last)
        if port not in chosen and _is_free(port):
            chosen.append(port)
            if len(chosen) == count:
                return chosen
    raise OSError(f"no {count} free ports between {first} and {last} on {ADDRESS}")


def _first_ephemeral() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
        return True
