"""What this API says of itself, and what the proxy path says of the part of a worker's API that it lets through."""

from typing import Any, Final

GROUP: Final = "view.jobdispatcher.io"
VERSION: Final = "v1alpha1"
ROOT: Final = f"/apis/{GROUP}/{VERSION}"


def _resource(name: str, kind: str, *verbs: str, namespaced: bool = True) -> dict[str, Any]:
    return {"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": list(verbs)}


GROUP_INFO: Final[dict[str, Any]] = {
    "kind": "APIGroup",
    "apiVersion": "v1",
    "name": GROUP,
    "versions": [{"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}],
    "preferredVersion": {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION},
}
GROUPS: Final[dict[str, Any]] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": [GROUP_INFO]}
RESOURCES: Final[dict[str, Any]] = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": f"{GROUP}/{VERSION}",
    "resources": [
        # Without the parents, `kubectl auth can-i` does not know the subresources.
        _resource("jobs", "Job"),
        _resource("jobs/pods", "PodList", "get"),
        _resource("jobs/events", "EventList", "get"),
        _resource("jobs/log", "Pod", "get"),
        _resource("clusters", "Cluster", namespaced=False),
        _resource("clusters/proxy", "Cluster", "get", namespaced=False),
    ],
}
OPENAPI: Final[dict[str, Any]] = {
    "swagger": "2.0",
    "info": {"title": GROUP, "version": VERSION},
    "paths": {},
}

WORKER_VERSIONS: Final[dict[str, Any]] = {"kind": "APIVersions", "versions": ["v1"]}
WORKER_GROUPS: Final[dict[str, Any]] = {"kind": "APIGroupList", "apiVersion": "v1", "groups": []}
WORKER_RESOURCES: Final[dict[str, Any]] = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": "v1",
    "resources": [
        {**_resource("pods", "Pod", "get", "list", "watch"), "singularName": "pod", "shortNames": ["po"]},
        _resource("pods/log", "Pod", "get"),
    ],
}
