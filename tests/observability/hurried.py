"""``job-dispatcher`` whose health has limits of seconds: python hurried.py FOLDER run …

It takes its first look at the management cluster only when FOLDER/look is there. SIGUSR1 blocks its event loop for
ten seconds. While FOLDER/stuck is there, work on a Job does not end.
"""

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import Any

from dispatcher.commands.main import main
from dispatcher.operator import first_look, health
from dispatcher.operator.reconciler import Reconciler

FOLDER = Path(sys.argv.pop(1))
BLOCKED_SECONDS = 10.0


async def wait_for(path: Path, *, there: bool) -> None:
    while await asyncio.to_thread(path.exists) != there:  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.1)


async def read_clusters(*arguments: Any) -> None:
    await wait_for(FOLDER / "look", there=True)
    await _read_clusters(*arguments)


async def reconcile(self: Reconciler, key: tuple[str, str]) -> float | None:
    await wait_for(FOLDER / "stuck", there=False)
    return await _reconcile(self, key)


_read_clusters, first_look.read_clusters = first_look.read_clusters, read_clusters  # type: ignore[assignment]
_reconcile, Reconciler.__call__ = Reconciler.__call__, reconcile  # type: ignore[method-assign]
health.WORK_LIMIT = 5.0  # type: ignore[misc]
health.WATCH_LIMIT = 10.0  # type: ignore[misc]
signal.signal(signal.SIGUSR1, lambda *_: time.sleep(BLOCKED_SECONDS))
main()
