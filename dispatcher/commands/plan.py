"""``job-dispatcher plan``: the planner without a cluster."""

import json
import sys
from dataclasses import dataclass, field

import click

from dispatcher.core import planner, strict_json
from dispatcher.core.names import ClusterName
from dispatcher.core.preferences import EVEN, Preferences, read_preferences
from dispatcher.core.strict_json import JsonError, Value, array, integer, member, members, string


class MalformedInput(click.ClickException):
    """What stands on standard input cannot be planned; the message names the key."""

    exit_code = 2


@dataclass(slots=True)
class Question:
    """What is asked of the planner."""

    replicas: int
    clusters: list[ClusterName]
    key: str = ""
    preferences: Preferences = EVEN
    existing: dict[ClusterName, int] = field(default_factory=dict)
    capacity: dict[ClusterName, int] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    """Keys that are not looked at."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Read and print JSON; the only form there is.")
def plan(as_json: bool) -> None:
    """Show how a number of replicas is divided over clusters.

    Reads a JSON object on standard input: "replicas" (how many), "clusters" (their names), and where wanted
    "key" (the Job's namespace/name, which decides who gets the odd ones), "preferences" (in the form of the
    annotation federation.kubernetes.io/job-preferences; without it all clusters count the same), "existing"
    and "capacity" (numbers by cluster). Prints {"plan": …, "overflow": …}.
    """
    if not as_json:
        raise click.UsageError("give --json, and the question on standard input")
    try:
        question = read_question(sys.stdin.buffer.read().decode())
    except UnicodeDecodeError as error:
        raise MalformedInput(f"standard input is not UTF-8: {error.reason} at byte {error.start}") from None
    except JsonError as error:
        raise MalformedInput(str(error)) from None
    for name in question.unknown:
        click.echo(f"Warning: unknown key {name} is ignored", err=True)
    answer = planner.plan(
        question.replicas,
        clusters=question.clusters,
        preferences=question.preferences,
        key=question.key,
        existing=question.existing,
        capacity=question.capacity,
    )
    click.echo(json.dumps({"plan": answer.plan, "overflow": answer.overflow}))


def read_question(text: str) -> Question:
    """Read the input.

    Raises:
        JsonError: malformed JSON, a missing key, a value of a wrong type, a negative number, a cluster twice.
    """
    document = strict_json.parse(text)
    if not isinstance(document, strict_json.Object):
        raise strict_json.wrong_type(document, "", "an object")
    given: dict[str, Value] = dict(document.members)
    for required in ("replicas", "clusters"):
        if required not in given:
            raise JsonError(f"{required}: is missing")
    question = Question(
        replicas=integer(given.pop("replicas"), "replicas"), clusters=_clusters(given.pop("clusters"))
    )
    if (key := given.pop("key", None)) is not None:
        question.key = string(key, "key")
    if "preferences" in given:
        # Null is not the same as absent here: as the annotation's text it names no cluster.
        question.preferences = read_preferences(given.pop("preferences"), "preferences")
    question.existing = _counts(given.pop("existing", None), "existing")
    question.capacity = _counts(given.pop("capacity", None), "capacity")
    question.unknown = [member("", name) for name in given]
    return question


def _clusters(value: Value) -> list[ClusterName]:
    clusters: list[ClusterName] = []
    for place, name in enumerate(array(value, "clusters")):
        clusters.append(ClusterName(string(name, f"clusters[{place}]")))
    if len(set(clusters)) < len(clusters):
        twice = next(name for name in clusters if clusters.count(name) > 1)
        raise JsonError(f"clusters: {twice!a} is named twice")
    return clusters


def _counts(value: Value, where: str) -> dict[ClusterName, int]:
    return {ClusterName(name): integer(count, member(where, name)) for name, count in members(value, where)}
