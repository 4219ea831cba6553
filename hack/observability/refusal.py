"""An admission policy that refuses every status of the Jobs in one namespace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from hack.lab.api import Api, ApiError
from hack.observability.work import JOBS, REFUSED, until

POLICY = "observability-refuses-statuses"
MESSAGE = "no status here"
GROUP = "admissionregistration.k8s.io"


@contextlib.contextmanager
def statuses_refused(api: Api) -> Iterator[None]:
    """Within it the policy is in force."""
    rule = {
        "apiGroups": ["batch"],
        "apiVersions": ["v1"],
        "operations": ["UPDATE"],
        "resources": ["jobs/status"],
    }
    api.apply(
        {
            "apiVersion": f"{GROUP}/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": POLICY},
            "spec": {
                "matchConstraints": {"resourceRules": [rule]},
                "validations": [{"expression": "false", "message": MESSAGE}],
            },
        }
    )
    api.apply(
        {
            "apiVersion": f"{GROUP}/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": POLICY},
            "spec": {
                "policyName": POLICY,
                "validationActions": ["Deny"],
                "matchResources": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": REFUSED}}
                },
            },
        }
    )
    try:
        until("the policy is in force", lambda: _refuses(api))
        yield
    finally:
        allow_statuses(api)


def allow_statuses(api: Api) -> None:
    """Take the policy away, if it is there."""
    for kind in ("validatingadmissionpolicybindings", "validatingadmissionpolicies"):
        with contextlib.suppress(ApiError):
            api.delete(f"/apis/{GROUP}/v1/{kind}/{POLICY}")


def _refuses(api: Api) -> bool:
    """Whether a status in that namespace is refused; it takes a moment until a policy is in force."""
    path = f"{JOBS.format(REFUSED)}/probe"
    with contextlib.suppress(ApiError):
        template = {
            "spec": {"restartPolicy": "Never", "containers": [{"name": "work", "image": "example/work"}]}
        }
        spec = {"suspend": True, "template": template}
        api.create(JOBS.format(REFUSED), {"metadata": {"name": "probe"}, "spec": spec})
    try:
        job = api.get(path)
        api._request("PUT", f"{path}/status?dryRun=All", {**job, "status": {**job["status"], "active": 0}})
    except ApiError as error:
        return MESSAGE in str(error)
    return False
