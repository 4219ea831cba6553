"""What all suites share: one lab of real control planes for the whole session."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from hack.image.archive import assemble
from hack.lab import Lab

# On a busy machine an example takes longer than the 200 ms that it has by default.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One management and three worker control planes with kwok nodes, registered; stopped at the session's end.

    JOB_DISPATCHER_TEST_LAB names a folder for a lab that is kept, and taken again by the next session.
    Tests must leave its planes running, and their objects in namespaces of their own.
    """
    kept = os.environ.get("JOB_DISPATCHER_TEST_LAB")
    running = Lab.up(Path(kept) if kept else tmp_path_factory.mktemp("lab"), workers=3)
    try:
        yield running
    finally:
        if not kept:
            running.down()


@pytest.fixture(scope="session")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image's build stage makes, read-only as in a container. It takes a minute: once for all.

    JOB_DISPATCHER_TEST_ASSEMBLED names a folder that has it from an earlier session.
    """
    kept = os.environ.get("JOB_DISPATCHER_TEST_ASSEMBLED")
    if kept and Path(kept).is_dir():
        return Path(kept)
    target = Path(kept) if kept else tmp_path_factory.mktemp("image") / "job-dispatcher"
    assemble(target)
    for path in [target, *target.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222 | (0o555 if path.is_dir() else 0o444))
    return target


def pytest_configure() -> None:
    """A shell that starts the suite in the background has SIGINT ignored, and so would every process of it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks every test that uses the lab, so that `-m 'not lab'` leaves out all that start control planes."""
    for item in items:
        if "lab" in getattr(item, "fixturenames", ()):
            item.add_marker("lab")
