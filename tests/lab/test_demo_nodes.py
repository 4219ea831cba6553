"""Which nodes the demo takes, and that it says why."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hack.demo import __main__ as demo
from hack.demo.screen import Screen
from hack.lab.component import ComponentFailed

REASONS = (
    "real nodes need root",
    "real nodes need cgroups; /sys/fs/cgroup has not: memory",
    "real nodes need containerd 1.6 or newer; here is 1.4.13",
)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[bool, list[str]]]:
    """The demo's choice of nodes; labs are not started. Gives whether they are real, and the kinds that were tried."""

    def choose(nodes: str, *, reason: str | None = None, fails: bool = False) -> tuple[bool, list[str]]:
        kinds: list[str] = []

        @contextlib.contextmanager
        def lab(name: str, **options: Any) -> Iterator[None]:
            kinds.append(options["nodes"])
            if fails and options["nodes"] == "kubelet":
                raise ComponentFailed("containerd ended with 1")
            yield None

        monkeypatch.setattr(demo, "temporary_lab", lab)
        monkeypatch.setattr(demo, "make_possible", lambda report: reason)
        with contextlib.ExitStack() as stack:
            return demo._start_lab(stack, Screen(), workers=2, nodes=nodes)[1], kinds

    return choose


def test_it_takes_real_nodes_where_they_can_be(start: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert start("auto") == (True, ["kubelet"])
    assert "the pods truly run" in capsys.readouterr().out


@pytest.mark.parametrize("reason", REASONS)
def test_else_it_simulates_them_and_says_why(
    start: Any, capsys: pytest.CaptureFixture[str], reason: str
) -> None:
    assert start("auto", reason=reason) == (False, ["kwok"])
    assert f"simulated by kwok, and their pods too ({reason})" in capsys.readouterr().out


def test_so_too_where_they_do_not_start(start: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert start("auto", fails=True) == (False, ["kubelet", "kwok"])
    assert "(real nodes do not start: containerd ended with 1)" in capsys.readouterr().out
    with pytest.raises(ComponentFailed):
        start("kubelet", fails=True)


def test_simulated_ones_need_no_reason(start: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert start("kwok") == (False, ["kwok"])
    assert "simulated by kwok, and their pods too\n" in capsys.readouterr().out
