"""The image without a container engine: its build step in a plain folder gives an installation that works."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hack.image.archive import read_dockerfile
from hack.lab import Lab
from tests.chart.installation import Installation, forget_everything

ROOT = Path(__file__).parents[2]
BASE_MEGABYTES = 50
"""Of the base image, unpacked."""


def run(assembled: Path, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """A program of the installation, from another folder, with nothing else on its path."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [assembled / "bin" / program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd="/",
        env=environment,
    )


def test_it_is_small_and_holds_no_installer(assembled: Path) -> None:
    size = sum(path.lstat().st_size for path in assembled.rglob("*"))
    assert size / 1e6 + BASE_MEGABYTES < 150
    [site] = assembled.glob("lib/python3*/site-packages")
    names = {path.name.partition("-")[0] for path in site.iterdir()}
    assert names.isdisjoint({"pip", "setuptools", "pytest", "mypy", "ruff"})


def test_its_commands_work_without_a_cluster(assembled: Path) -> None:
    done = run(assembled, "job-dispatcher", "version")
    assert done.returncode == 0, done.stderr
    done = run(assembled, "job-dispatcher", "run", "--kubeconfig", "/nowhere")
    assert done.returncode == 1
    assert "there is no file /nowhere" in done.stderr


def test_join_finds_the_workers_rights_in_it(assembled: Path, tmp_path: Path) -> None:
    """They are a file of the worker's chart, linked into the package."""
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "w", "cluster": {"server": "https://worker.example"}}],
        "users": [{"name": "w", "user": {"token": "t"}}],
        "contexts": [{"name": "w", "context": {"cluster": "w", "user": "w"}}],
        "current-context": "w",
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(kubeconfig))
    arguments: list[str | Path] = ["join", "w", "--worker-kubeconfig", path, "--dry-run", "-o", "yaml"]
    done = run(assembled, "kubectl-dispatch", *arguments)
    assert done.returncode == 0, done.stderr
    assert "ClusterRole" in done.stdout


@pytest.fixture
def release(bare_lab: Lab) -> Iterator[Installation]:
    """The chart as it comes."""
    release = Installation(bare_lab)
    release.install()
    yield release
    forget_everything(bare_lab)
    release.uninstall("--no-hooks")


def test_the_controller_in_it_gets_ready(assembled: Path, release: Installation) -> None:
    controller = release.start(program=assembled / "bin" / "job-dispatcher")
    try:
        assert "job_dispatcher_build_info" in controller.metrics()
    finally:
        controller.stop()


def test_the_dockerfile_does_what_the_test_does() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^ARG PYTHON_IMAGE=python:\d+\.\d+\.\d+-alpine\d+\.\d+$", text, re.MULTILINE)
    assert "hack/image/assemble python3 /source /opt/job-dispatcher" in text
    assert re.search(r"^USER 65532:65532$", text, re.MULTILINE)
    place, settings = read_dockerfile(text)
    assert place == "/opt/job-dispatcher"
    assert settings["Entrypoint"] == ["job-dispatcher"]
    assert f"PATH={place}/bin:/" in settings["Env"][0]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    for source in " ".join(copied).split():
        assert (ROOT / source).exists()
        assert any(source == it[1:] or source.startswith(it[1:] + "/") for it in ignored if it[0] == "!"), (
            source
        )
