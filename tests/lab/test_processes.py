import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hack.lab import ports, processes
from hack.lab.processes import ProcessId


def sleeper(lab: Path) -> ProcessId:
    return processes.spawn(["/bin/sleep", "600"], lab=lab, log=lab / "log", environment=os.environ)


def test_a_process_is_found_by_its_mark_paused_and_killed(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    try:
        assert processes.is_running(process)
        assert processes.marked(tmp_path) == [process]
        assert processes.marked(tmp_path / "other") == []
        processes.send(process, signal.SIGSTOP)
        while not processes.is_paused(process):
            pass
        assert processes.is_running(process)
    finally:
        processes.kill([process])
    assert not processes.is_running(process)
    assert processes.marked(tmp_path) == []


def test_a_reused_process_id_is_never_signalled(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    try:
        reused = ProcessId(process.pid, process.start_time - 1)
        assert not processes.is_running(reused)
        assert not processes.send(reused, signal.SIGKILL)
        assert processes.wait_gone([reused], timeout=0) == []
        assert processes.is_running(process)
    finally:
        processes.kill([process])


def test_a_process_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from hack.lab import processes; lab = pathlib.Path(sys.argv[1]);"
        "print(processes.spawn(['/bin/sleep', '600'], lab=lab, log=lab / 'log', environment=os.environ).pid)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pid = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    (left,) = processes.marked(tmp_path)
    assert left.pid == pid
    assert os.getsid(pid) == pid
    processes.kill([left])
    assert not processes.is_running(left)


def test_kill_says_what_does_not_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = sleeper(tmp_path)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(processes, "send", lambda process, number: True)
            with pytest.raises(TimeoutError, match=str(process.pid)):
                processes.kill([process], timeout=0.05)
    finally:
        processes.kill([process])


def test_ports_are_free_different_and_below_those_of_outgoing_connections() -> None:
    chosen = ports.pick(50)
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(set(chosen)) == 50
    assert all(1024 < port < first_ephemeral for port in chosen)


def test_one_that_ended_but_was_not_waited_for_counts_as_gone(tmp_path: Path) -> None:
    process = sleeper(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    while processes.is_running(process):
        pass
    assert Path(f"/proc/{process.pid}").exists()  # a zombie: its parent is this test
    assert not processes.send(process, signal.SIGSTOP)
    assert processes.wait_gone([process], timeout=0) == []
    assert not Path(f"/proc/{process.pid}").exists()
