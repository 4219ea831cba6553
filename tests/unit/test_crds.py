"""The CRDs' files: every field explained and bounded, every rule with a message.

What a real API server accepts and refuses is in tests/integration/test_crds.py.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from dispatcher.core import names

FILES = Path(__file__).parents[2] / "charts" / "job-dispatcher" / "files" / "crds"


class Node(NamedTuple):
    """One place of a schema: its path with dots, and what is declared there."""

    path: str
    schema: dict[str, Any]
    is_field: bool


def walk(schema: dict[str, Any], path: str = "") -> Iterator[Node]:
    """Every schema below ``schema``: fields by name, items as ``[]``, values of maps as ``{}``."""
    children = {name: (child, True) for name, child in schema.get("properties", {}).items()}
    for name, keyword in (("[]", "items"), ("{}", "additionalProperties")):
        if keyword in schema:
            children[name] = (schema[keyword], False)
    for name, (child, is_field) in children.items():
        below = f"{path}.{name}" if path else name
        yield Node(below, child, is_field)
        yield from walk(child, below)


def load(name: str) -> dict[str, Any]:
    crd: dict[str, Any] = yaml.safe_load((FILES / f"{name}.yaml").read_text())
    return crd


def version(name: str) -> dict[str, Any]:
    versions: list[dict[str, Any]] = load(name)["spec"]["versions"]
    [only] = versions
    return only


def nodes(name: str, *, below: str = "") -> list[Node]:
    schema = version(name)["schema"]["openAPIV3Schema"]
    return [node for node in walk(schema) if node.path.startswith(below)]


CRDS = ("workerclusters", "dispatchpolicies")
every_crd = pytest.mark.parametrize("name", CRDS)


def test_there_are_no_others() -> None:
    assert {path.stem for path in FILES.glob("*.yaml")} == set(CRDS)


@every_crd
def test_names_agree(name: str) -> None:
    crd = load(name)
    assert crd["metadata"]["name"] == f"{name}.{names.API_GROUP}"
    assert crd["spec"]["group"] == names.API_GROUP
    assert crd["spec"]["names"]["plural"] == name
    assert version(name)["name"] == names.API_VERSION


def test_scopes() -> None:
    assert load("workerclusters")["spec"]["scope"] == "Cluster"
    assert load("dispatchpolicies")["spec"]["scope"] == "Namespaced"


def test_a_cluster_has_a_status_of_its_own_to_write() -> None:
    assert version("workerclusters")["subresources"] == {"status": {}}


@every_crd
def test_every_field_is_explained(name: str) -> None:
    bare = [
        node.path
        for node in nodes(name)
        if node.is_field and node.path != "metadata" and not node.schema.get("description")
    ]
    assert bare == []


@every_crd
def test_every_rule_says_what_is_wrong(name: str) -> None:
    schemas = [version(name)["schema"]["openAPIV3Schema"], *(node.schema for node in nodes(name))]
    rules = [rule for schema in schemas for rule in schema.get("x-kubernetes-validations", [])]
    assert rules
    assert [rule["rule"] for rule in rules if not rule.get("message")] == []


@every_crd
def test_everything_a_person_writes_is_bounded(name: str) -> None:
    bounds = {
        "string": {"maxLength", "enum"},
        "array": {"maxItems"},
        "integer": {"maximum"},
    }
    unbounded = [
        node.path
        for node in nodes(name, below="spec.")
        if (wanted := bounds.get(node.schema["type"])) and not wanted & node.schema.keys()
    ]
    unbounded += [
        node.path
        for node in nodes(name, below="spec.")
        if "additionalProperties" in node.schema and "maxProperties" not in node.schema
    ]
    assert unbounded == []


@every_crd
def test_numbers_are_not_negative(name: str) -> None:
    integers = [node for node in nodes(name, below="spec.") if node.schema["type"] == "integer"]
    assert [node.path for node in integers if node.schema.get("minimum", -1) < 0] == []


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("workerclusters", {"spec.kubeconfigSecretRef.key": "kubeconfig", "spec.weight": 1}),
        (
            "dispatchpolicies",
            {
                "spec.division": "Even",
                "spec.failover": {},
                "spec.failover.after": "5m",
                "spec.failover.unschedulableAfter": "off",
                "spec.moveRunning": False,
                "spec.stealUnstarted": False,
                "spec.stealAfter": "30s",
                "spec.tolerations.[].operator": "Equal",
            },
        ),
    ],
    ids=CRDS,
)
def test_defaults(name: str, defaults: dict[str, Any]) -> None:
    assert {node.path: node.schema["default"] for node in nodes(name) if "default" in node.schema} == defaults


@every_crd
def test_columns_read_fields_that_exist(name: str) -> None:
    known = {node.path for node in nodes(name)}
    for column in version(name)["additionalPrinterColumns"]:
        path = column["jsonPath"].lstrip(".")
        if not path.startswith("metadata."):
            assert path.split("[?")[0] in known, column["name"]
