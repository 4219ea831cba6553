"""Prometheus on this machine, with the project's alerts, scraping one dispatcher."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hack.generate.files import CHARTS
from hack.lab import Lab, ports, processes

ALERTS = CHARTS / "job-dispatcher" / "files" / "alerts" / "job-dispatcher.yaml"
JOB = "job-dispatcher"
START_SECONDS = 120.0
STEP_SECONDS = 2
"""Between scrapes, and the most that one may take."""
ANSWER_SECONDS = 60.0
WATCH_SILENT = 20
"""Bookmarks come only every minute: a watch is silent for less while there is work on its cluster."""
SHORTER = (
    (r"for: \w+", "for: 1s"),
    (r"\[1[05]m\]", "[20s]"),
    (r"offset 15m", "offset 20s"),
    (r"watch_idle_seconds > 150", f"watch_idle_seconds > {WATCH_SILENT}"),
    (r"oldest_seconds > 60", "oldest_seconds > 2"),
    (r"wait_seconds > 900", "wait_seconds > 5"),
    (r"\)\)\) > 10\b", "))) > 3"),
)


class PrometheusMissing(RuntimeError):
    """There is no program of that name."""


def shortened(rules: str) -> str:
    """The alerts with durations and limits in seconds, for a test; the real ones are tested by promtool."""
    for pattern, stand_in in SHORTER:
        rules, count = re.subn(pattern, stand_in, rules)
        if not count:
            raise ValueError(f"no rule has {pattern}")
    return rules


class Prometheus:
    """A running server; the lab's ``down`` ends it too."""

    def __init__(self, lab: Lab, process: processes.ProcessId, *, url: str, targets: Path) -> None:
        self._lab = lab
        self._process = process
        self._url = url
        self._targets = targets

    @classmethod
    def start(cls, lab: Lab, address: str) -> Prometheus:
        """Start it, scraping ``address``. Raises PrometheusMissing; TimeoutError with what it says of its target."""
        program = shutil.which("prometheus")
        if program is None:
            raise PrometheusMissing("prometheus is missing: install Debian's package of that name")
        folder = lab.folder / "prometheus"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "rules.yaml").write_text(shortened(ALERTS.read_text()))
        targets = folder / "targets.json"
        scrape = {
            "job_name": JOB,
            "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}],
        }
        configuration = {
            "global": {
                "scrape_interval": f"{STEP_SECONDS}s",
                "scrape_timeout": f"{STEP_SECONDS}s",
                "evaluation_interval": "1s",
            },
            "rule_files": ["rules.yaml"],
            "scrape_configs": [scrape],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        listen = f"{ports.ADDRESS}:{ports.pick(1)[0]}"
        command = [program, f"--config.file={folder / 'prometheus.yaml'}", f"--web.listen-address={listen}"]
        command += [f"--storage.tsdb.path={folder / 'data'}", "--log.level=warn"]
        process = processes.spawn(
            command, lab=lab.folder, log=lab.folder / "logs" / "prometheus.log", environment=os.environ
        )
        server = cls(lab, process, url=f"http://{listen}", targets=targets)
        server.scrape(address)
        end = time.monotonic() + START_SECONDS
        while not server.holds(f'up{{job="{JOB}"}} == 1'):
            if time.monotonic() > end or not processes.is_running(process):
                fault = server._fault()
                server.stop()
                log = lab.folder / "logs" / "prometheus.log"
                raise TimeoutError(f"prometheus does not scrape {address}: {fault}; its log: {log}")
            time.sleep(0.1)
        return server

    def scrape(self, address: str) -> None:
        """Scrape this address from now on."""
        fresh = self._targets.with_suffix(".new")
        fresh.write_text(json.dumps([{"targets": [address]}]))
        fresh.replace(self._targets)

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The result of an instant query. Raises RuntimeError for a bad expression."""
        return self._ask("query", query=expr)

    def history(self, expr: str, *, start: float, end: float, step: float = 1.0) -> list[dict[str, Any]]:
        """The result of a range query; times in Unix seconds."""
        return self._ask("query_range", query=expr, start=str(start), end=str(end), step=str(step))

    def fires(self, alert: str, **labels: str) -> bool:
        """Whether an alert with these labels fires now."""
        return self.holds(_firing(alert, labels))

    def is_quiet(self, alert: str, **labels: str) -> bool:
        """Whether no alert with these labels fires, and not for want of data: the last scrape succeeded."""
        return self.holds(f'up{{job="{JOB}"}} == 1 unless on () {_firing(alert, labels)}')

    def holds(self, expr: str) -> bool:
        """Whether an expression gives anything now; an error is no answer."""
        try:
            return bool(self.query(expr))
        except (OSError, RuntimeError):
            return False

    def stop(self) -> None:
        """End it."""
        processes.send(self._process, signal.SIGTERM)
        if processes.wait_gone([self._process], timeout=10.0):
            processes.kill([self._process])

    def _fault(self) -> str:
        """What it reports of its targets' last scrapes."""
        try:
            with urllib.request.urlopen(f"{self._url}/api/v1/targets", timeout=ANSWER_SECONDS) as response:
                targets = json.load(response)["data"]["activeTargets"]
        except OSError as error:
            return f"it does not answer ({error})"
        return "; ".join(target["lastError"] or target["health"] for target in targets) or "it has no target"

    def _ask(self, what: str, **parameters: str) -> list[dict[str, Any]]:
        url = f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode(errors="replace")) from None
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found


def _firing(alert: str, labels: Mapping[str, str]) -> str:
    wanted = ",".join(f'{name}="{value}"' for name, value in {"alertname": alert, **labels}.items())
    return f'ALERTS{{alertstate="firing",{wanted}}}'
