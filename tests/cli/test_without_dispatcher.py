"""While no dispatcher runs: what depends on it says so, and what does not works."""

from hack.lab import Lab
from tests.cli.plugin import Plugin


def test_draining_says_that_nobody_acts_on_it(plugin: Plugin, lab: Lab) -> None:
    try:
        said = plugin.refused("drain", "worker-1", "--timeout", "1s")
        assert said == "error: not drained within 1s: the dispatcher has not noticed yet; is it running?\n"
    finally:
        plugin.ok("uncordon", "worker-1")
