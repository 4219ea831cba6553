import fcntl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hack.lab.cache import Progress, Step, build_missing, cache_folder, clock
from hack.lab.gobuild import BuildFailed


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JOB_DISPATCHER_CACHE", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache"
    return tmp_path / "cache"


def step(cache: Path, build: Callable[[Path, Progress], None], *, name: str = "tool") -> Step:
    return Step(what=f"{name} 1", target=cache / name / "v1", seconds=60.0, build=build)


def test_what_is_missing_is_built_with_an_estimate_of_all(cache: Path) -> None:
    def build(folder: Path, progress: Progress) -> None:
        progress(70.0, 8.4)

    said: list[str] = []
    steps = [step(cache, build, name="a"), step(cache, build, name="b")]
    build_missing(steps, report=said.append)
    assert said[0] == "to build once: a 1, b 1; about 2m00s in all"
    assert "building a 1: 1m10s so far, about 8s left, 1m08s with what follows" in said
    assert "building b 1: 1m10s so far, about 8s left" in said
    said.clear()
    build_missing(steps, report=said.append)
    assert said == []


def test_two_builders_build_once(cache: Path) -> None:
    entered, proceed = threading.Event(), threading.Event()
    built: list[str] = []

    def build(folder: Path, progress: Progress) -> None:
        built.append(folder.name)
        entered.set()
        assert proceed.wait(10)
        assert not tool.target.exists()
        (folder / "tool").write_text("binary")

    def report(line: str) -> None:
        if "waiting" in line:
            proceed.set()

    tool = step(cache, build)
    first = threading.Thread(target=build_missing, args=([tool],), kwargs={"report": report})
    first.start()
    assert entered.wait(10)
    build_missing([tool], report=report)
    first.join()
    assert len(built) == 1
    assert (tool.target / "tool").read_text() == "binary"


def test_a_failed_or_killed_build_is_never_taken(cache: Path) -> None:
    def fail(folder: Path, progress: Progress) -> None:
        (folder / "tool").write_text("half")
        raise BuildFailed("no space")

    with pytest.raises(BuildFailed, match="no space"):
        build_missing([step(cache, fail)], report=print)
    assert not (cache / "tool" / "v1").exists()

    def build(folder: Path, progress: Progress) -> None:
        assert list(folder.iterdir()) == []
        (folder / "tool").write_text("whole")

    build_missing([step(cache, build)], report=print)
    assert (cache / "tool" / "v1" / "tool").read_text() == "whole"


def test_a_compiler_that_outlives_its_builder_keeps_the_lock(cache: Path) -> None:
    def build(folder: Path, progress: Progress) -> None:
        open_files = [entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
        (lock,) = [
            int(entry.name) for entry in open_files if entry.exists() and entry.readlink().name == "tool-v1"
        ]
        assert not fcntl.fcntl(lock, fcntl.F_GETFD) & fcntl.FD_CLOEXEC

    build_missing([step(cache, build)], report=print)


def test_times_for_a_person() -> None:
    assert [clock(seconds) for seconds in (0, 59.4, 60, 754)] == ["0s", "59s", "1m00s", "12m34s"]
