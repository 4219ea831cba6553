"""The plugin as people with few rights: what they may see they see, and what is missing is named."""

import re

import pytest
import yaml

from tests.cli.conftest import People
from tests.cli.plugin import Plugin, manifest

JOBS = {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "watch"]}


def missing_rule(said: str) -> tuple[dict[str, list[str]], str]:
    """The rule that a refusal names, and where it belongs."""
    found = re.search(r"^Missing: a rule (\{.*\}) in a (.*)$", said, flags=re.MULTILINE)
    assert found, said
    return yaml.safe_load(found[1]), found[2]


def test_without_rights_the_missing_rule_is_named_and_is_the_one_that_helps(
    people: People, namespace: str
) -> None:
    user = people.make("nobody")
    said = user.refused("get")
    assert said.startswith("Error from server (Forbidden): jobs.batch is forbidden: User ")
    rule, where = missing_rule(said)
    assert rule == {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["list"]}
    assert where == f"Role of namespace {namespace}"
    people.allow("nobody", rule)
    assert user.run("get").stderr == f"No dispatched Jobs found in {namespace} namespace.\n"


@pytest.mark.parametrize(
    ("arguments", "resource", "verb"),
    [
        (["describe", "x"], "jobs", "get"),
        (["get", "-w"], "jobs", "list"),
        (["clusters"], "workerclusters", "list"),
        (["cordon", "worker-1"], "workerclusters", "get"),
        (["drain", "worker-1"], "jobs", "list"),
        (["forget", "worker-1", "--yes"], "workerclusters", "get"),
        (["top"], "jobs", "list"),
    ],
)
def test_without_rights(people: People, arguments: list[str], resource: str, verb: str) -> None:
    rule, _ = missing_rule(people.make("nobody").refused(*arguments))
    assert (rule["resources"], rule["verbs"]) == ([resource], [verb])


def test_submitting_needs_the_right_to_create_jobs(people: People) -> None:
    said = people.make("nobody").refused("submit", "-f", "-", input=manifest("x"))
    assert missing_rule(said)[0] == {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["create"]}


def test_who_sees_the_jobs_of_one_namespace(people: People, plugin: Plugin) -> None:
    plugin.ok("submit", "-f", "-", input=manifest("x", suspend=True))
    user = people.make("reader")
    people.allow("reader", JOBS)
    assert user.ok("get", "--no-headers").split()[0] == "x"
    described = user.ok("describe", "x")
    assert re.search(r"^Phase: +Suspended$", described, flags=re.MULTILINE)
    assert 'resources: ["events"], verbs: ["list"]}' in described
    said = user.ok("top")
    assert "workerclusters.jobdispatcher.io is forbidden" in said
    assert " x " in said
    rule, where = missing_rule(user.refused("get", "-A"))
    assert (rule["verbs"], where) == (["list"], "ClusterRole")
    assert "Dispatcher Version: unknown (its Deployment cannot be read: Forbidden)" in user.ok("version")


def test_who_may_read_the_fleet_may_not_change_it(people: People) -> None:
    user = people.make("guest")
    resource = {"apiGroups": ["jobdispatcher.io"], "resources": ["workerclusters"]}
    people.allow("guest", {**resource, "verbs": ["get", "list"]}, everywhere=True)
    assert user.ok("clusters", "--no-headers").split()[0] == "worker-1"
    rule, where = missing_rule(user.refused("cordon", "worker-1"))
    assert (rule, where) == ({**resource, "verbs": ["patch"]}, "ClusterRole")
