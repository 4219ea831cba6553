"""A process on a terminal of its own, as a person would see it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence

READ_SECONDS = 60.0


class Session:
    """A process on a terminal of its own."""

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str], size: tuple[int, int]
    ) -> None:
        """``size``: lines and columns."""
        self._screen, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self._process = subprocess.Popen(
            command, stdin=inside, stdout=inside, stderr=inside, env=environment, start_new_session=True
        )
        os.close(inside)
        self.output = ""

    @property
    def text(self) -> str:
        """What was written, without the codes of colours and places."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.output)

    def read_until(self, text: str) -> None:
        """Read until this has been written."""
        end = time.monotonic() + READ_SECONDS
        while text not in self.text:
            assert time.monotonic() < end, self.output
            if not self._read(0.1) and self._process.poll() is not None:
                assert text in self.text, self.output

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._screen, text.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """Wait for the end; the exit code."""
        end = time.monotonic() + READ_SECONDS
        while self._process.poll() is None:
            assert time.monotonic() < end, self.output
            self._read(0.05)
        while self._read(0.05):
            pass
        os.close(self._screen)
        return self._process.returncode

    def _read(self, seconds: float) -> bool:
        if not select.select([self._screen], [], [], seconds)[0]:
            return False
        try:
            block = os.read(self._screen, 65536)
        except OSError:
            # Linux says EIO when nobody holds the other side any more.
            return False
        self.output += block.decode(errors="replace")
        return bool(block)
