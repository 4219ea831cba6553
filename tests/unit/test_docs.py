"""What the documentation names is there: links, files, make targets, flags, chart values, metrics, variables."""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from prometheus_client import REGISTRY

import dispatcher.metrics  # noqa: F401 - it registers them
from dispatcher.commands.kubectl import commands as plugin
from dispatcher.commands.main import commands as controller

ROOT = Path(__file__).parents[2]
DOCS = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("charts/*/README.md"),
    ]
)
OTHER_TOOLS = frozenset(
    {
        *(
            "all",
            "as",
            "as-group",
            "cascade",
            "create-namespace",
            "field-selector",
            "for",
            "help",
            "limit-bytes",
        ),
        *(
            "minify",
            "no-hooks",
            "raw",
            "reset-then-reuse-values",
            "resource",
            "resource-name",
            "server",
            "set",
        ),
        *("since-time", "strict", "type", "verb"),
    }
)
"""Flags of kubectl, helm and pip that the documentation shows."""

each = pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))


def prose(path: Path) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def commands(path: Path) -> Iterator[str]:
    """Every piece of code in a document: spans in its prose, and lines of its blocks, with those that go on joined."""
    yield from re.findall(r"`([^`]+)`", prose(path))
    for block in re.findall(r"^ *```.*?\n(.*?)^ *```", path.read_text(), flags=re.DOTALL | re.MULTILINE):
        yield from block.replace("\\\n", " ").splitlines()


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as the forges make them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(path), flags=re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", text).replace(" ", "-"))
    return found


@functools.cache
def code(*folders: str) -> str:
    """The programs and scripts in these folders, as one text."""
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    return "".join(path.read_text() for path in files if path.is_file() and path.suffix in ("", ".py"))


@each
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"https?:", link):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each
def test_files_are_there(path: Path) -> None:
    folders = "|".join(("charts", "dispatcher", "docs", "hack", "tests"))
    for name in re.findall(rf"`((?:{folders})/[A-Za-z0-9_./*-]+)`", prose(path)):
        assert list(ROOT.glob(name.rstrip("/"))), name


@each
def test_make_targets_are_there(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))
    for line in commands(path):
        for named in re.findall(r"\bmake ((?:[a-z][a-z-]*(?: \| |$| ))+)", line):
            assert set(re.findall(r"[a-z-]+", named)) <= targets, line


def flags_of(command: click.Command) -> set[str]:
    """``--flag``, ``-f``."""
    parameters = [*command.params, *plugin.params]
    return {"--help", "-h"} | {
        flag for it in parameters for flag in (*it.opts, *it.secondary_opts) if flag.startswith("-")
    }


def verbs(group: Any) -> dict[str, click.Command]:
    """A group's commands by name."""
    context = click.Context(group)
    return {name: group.get_command(context, name) for name in group.list_commands(context)}


@each
def test_verbs_have_the_flags_they_are_given(path: Path) -> None:
    known = {
        **{("kubectl dispatch", name): verb for name, verb in verbs(plugin).items()},
        **{("job-dispatcher", name): verb for name, verb in verbs(controller).items()},
    }
    for line in commands(path):
        for program, rest in re.findall(r"\b(kubectl dispatch|job-dispatcher) ((?:[^|&;#(>]|\$\()*)", line):
            words = rest.split()
            if not words or not re.fullmatch(r"[a-z][a-z-]*", words[0]):
                continue
            verb = known.get((program, words[0]))
            if verb is None:
                assert program == "job-dispatcher", line  # a name of a namespace, a release, a chart
                continue
            given = {
                word.partition("=")[0].strip("[],.") for word in words[1:] if re.match(r"\[?--?[a-z]", word)
            }
            assert {flag for flag in given if flag.startswith("--") or len(flag) == 2} <= flags_of(verb), line


@each
def test_flags_are_somebodys(path: Path) -> None:
    ours = {
        flag for group in (plugin, controller) for verb in verbs(group).values() for flag in flags_of(verb)
    }
    of_scripts = set(re.findall(r"--[a-z-]+", code("hack")))
    for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", " ".join(commands(path))):
        assert flag in ours | of_scripts or flag[2:] in OTHER_TOOLS, flag


@each
def test_metrics_are_there(path: Path) -> None:
    known = {sample.name for family in REGISTRY.collect() for sample in family.samples}
    known |= {
        f"{family.name}{end}"
        for family in REGISTRY.collect()
        for end in ("", "_total", "_bucket", "_sum", "_count")
    }
    for name in re.findall(r"\bjob_dispatcher_[a-z_]+[a-z]\b", path.read_text()):
        assert name in known, name


@each
def test_variables_are_there(path: Path) -> None:
    settings = {
        f"JOB_DISPATCHER_{flag[2:].replace('-', '_').upper()}" for flag in flags_of(verbs(controller)["run"])
    }
    for name in re.findall(r"\bJOB_DISPATCHER_[A-Z_]+[A-Z]\b", path.read_text()):
        assert name in settings or name in code("dispatcher", "hack", "tests"), name


def values(content: Any, before: str = "") -> Iterator[str]:
    """Every key of a chart's values, with dots."""
    for key, value in (content or {}).items() if isinstance(content, dict) else ():
        yield before + key
        yield from values(value, f"{before}{key}.")


@each
def test_chart_values_are_there(path: Path) -> None:
    known = {
        name
        for file in ROOT.glob("charts/*/values.yaml")
        for name in values(yaml.safe_load(file.read_text()))
    }
    open_ended = ("nodeSelector", "resources", "podAnnotations", "podLabels", "tolerations", "affinity")
    first = {name.partition(".")[0] for name in known if "." in name}
    for name in re.findall(r"`([a-z][A-Za-z]*(?:\.[a-zA-Z]+)+)(?:: [^`]*|=[^`]*)?`", prose(path)):
        is_value = not re.search(r"\.(py|io|md)$", name)
        if is_value and name.partition(".")[0] in first - set(open_ended):
            assert name in known, name
