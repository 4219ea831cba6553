"""How refusals are said: kubectl's form, and the rule that is missing."""

import pytest

from dispatcher.commands.refusals import ClusterSaysNo, missing_rule, refusal


@pytest.mark.parametrize(
    ("method", "path", "parameters", "expected"),
    [
        ("GET", "/apis/batch/v1/namespaces/a/jobs", {}, ("batch", "jobs", "list", "Role of namespace a")),
        ("GET", "/apis/batch/v1/namespaces/a/jobs", {"watch": "1"}, ("batch", "jobs", "watch", "Role of namespace a")),
        ("GET", "/apis/batch/v1/namespaces/a/jobs/x", {}, ("batch", "jobs", "get", "Role of namespace a")),
        ("GET", "/apis/batch/v1/jobs", {}, ("batch", "jobs", "list", "ClusterRole")),
        ("GET", "/api/v1/namespaces", {}, ("", "namespaces", "list", "ClusterRole")),
        ("GET", "/api/v1/namespaces/a", {}, ("", "namespaces", "get", "ClusterRole")),
        ("POST", "/api/v1/namespaces/a/configmaps", {}, ("", "configmaps", "create", "Role of namespace a")),
        ("DELETE", "/apis/g/v1/things/x", {}, ("g", "things", "delete", "ClusterRole")),
        ("DELETE", "/apis/g/v1/things", {}, ("g", "things", "deletecollection", "ClusterRole")),
        ("PATCH", "/apis/g/v1/things/x/status", {}, ("g", "things/status", "patch", "ClusterRole")),
        ("PUT", "/apis/g/v1/things/x", {}, ("g", "things", "update", "ClusterRole")),
        ("GET", "/apis/g/v1/namespaces/a/jobs/x/log", {}, ("g", "jobs/log", "get", "Role of namespace a")),
    ],
)  # fmt: skip
def test_the_missing_rule(
    method: str, path: str, parameters: dict[str, str], expected: tuple[str, str, str, str]
) -> None:
    group, resource, verb, where = expected
    rule = f'a rule {{apiGroups: ["{group}"], resources: ["{resource}"], verbs: ["{verb}"]}} in a {where}'
    assert missing_rule(method, path, parameters) == rule


def test_what_is_no_resource_has_no_rule() -> None:
    assert missing_rule("GET", "/version", {}) == ""


def test_only_an_authorizers_no_is_about_rules() -> None:
    answer = {"reason": "Forbidden", "message": "exceeded quota: pods"}
    error = refusal(403, answer, method="POST", path="/apis/batch/v1/namespaces/a/jobs")
    assert error.in_kubectls_form() == "Error from server (Forbidden): exceeded quota: pods"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ClusterSaysNo("no answer"), "error: no answer"),
        (ClusterSaysNo("gone", status=404, reason="NotFound"), "Error from server (NotFound): gone"),
        (ClusterSaysNo("odd", status=500), "Error from server: odd"),
    ],
)
def test_kubectls_form(error: ClusterSaysNo, text: str) -> None:
    assert error.in_kubectls_form() == text
    assert error.exit_code == 1
