"""helm, and control planes without anything of ours, on which the charts are installed."""

from pathlib import Path

import pytest

from hack.lab.binaries import DEFAULT_KUBERNETES, provide


@pytest.fixture(scope="session")
def helm_program() -> Path:
    """helm as the lab uses it."""
    return provide(DEFAULT_KUBERNETES, report=print).helm
