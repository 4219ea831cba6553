"""What can be checked of the kind path without a container engine."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from dispatcher.commands.join import join
from hack.generate.files import CHARTS
from hack.lab import binaries
from tests.chart.charts import only, render

ROOT = Path(__file__).parents[2]
KIND = ROOT / "hack" / "kind"
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yaml"


@pytest.mark.parametrize("script", ["kind/up", "kind/down", "kind/check", "image/assemble", "setup/lock"])
def test_the_scripts_parse_and_are_executable(script: str) -> None:
    path = ROOT / "hack" / script
    shell = "sh" if path.read_text().startswith("#!/bin/sh") else "bash"
    subprocess.run([shell, "-n", path], check=True)
    assert path.stat().st_mode & 0o111


def test_the_chart_takes_its_values(helm_program: Path) -> None:
    objects = render(helm_program, files=(KIND / "values.yaml",))
    [container] = only(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "job-dispatcher:kind"
    up = (KIND / "up").read_text()
    assert "image=job-dispatcher:kind" in up
    assert (CHARTS / "job-dispatcher").is_dir()
    assert "charts/job-dispatcher " in up


def test_join_has_the_options_that_it_is_given() -> None:
    up = (KIND / "up").read_text()
    command = re.search(r"kubectl-dispatch join (.*?)\ndone", up, re.DOTALL)
    assert command
    known = {flag for parameter in join.params for flag in parameter.opts}
    assert set(re.findall(r"--[a-z-]+", command[1])) <= known


def test_the_workflow_is_one_that_github_takes(tmp_path: Path) -> None:
    checker = binaries.provide_actionlint(report=print)
    # Without programs that may be there or not: the same answer everywhere.
    command: list[str | Path] = [checker, "-no-color", "-shellcheck=", "-pyflakes="]
    done = subprocess.run([*command, WORKFLOW], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "ci.yaml"
    wrong.write_text(WORKFLOW.read_text().replace("runs-on: ubuntu-24.04", "runs_on: ubuntu-24.04"))
    done = subprocess.run([*command, wrong], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert 'unexpected key "runs_on"' in done.stdout


def test_the_workflow_runs_lint_tests_and_kind() -> None:
    workflow = yaml.safe_load(WORKFLOW.read_text())
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    for wanted in ("make lint", "make test", "make kind-up", "hack/kind/check"):
        assert wanted in steps
    assert f"go install helm.sh/helm/v4/cmd/helm@v{binaries.HELM}" in steps
    assert workflow["permissions"] == {"contents": "read"}
