"""The lab's memory, `DIR/state.json`: what was started, with which command, under which process id.

It is read anew for every question and changed under a lock, so that several processes may handle one lab.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FORMAT = 1
JSON = dict[str, Any]


class StateFile:
    """`state.json` of the lab in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / "state.json"

    def exists(self) -> bool:
        """Whether the folder belongs to a lab."""
        return self._path.exists()

    def read(self) -> JSON:
        """The whole content.

        Raises FileNotFoundError when there is no lab here.
        """
        content: JSON = json.loads(self._path.read_text())
        return content

    def create(self, content: JSON) -> None:
        """The first content."""
        self._write({"format": FORMAT, **content})

    def update(self, change: Callable[[JSON], None]) -> None:
        """Lets `change` edit the content, alone among all processes and threads."""
        with (self.folder / "state.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            content = self.read()
            change(content)
            self._write(content)

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[bool]:
        """For the time of `up` or `down`; gives False at once when another process is at it. Ends with its process."""
        with (self.folder / "up-down.lock").open("w") as handle:
            alone = True
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                alone = False
            yield alone

    def _write(self, content: JSON) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(content, indent=2))
        os.replace(fresh, self._path)
