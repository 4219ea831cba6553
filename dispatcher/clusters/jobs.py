"""The requests this product makes, one thin function each; they choose a path and a body, nothing else."""

from typing import Any

from dispatcher.clusters import foreign_jobs
from dispatcher.clusters.client import JSON, MAX_LIST_BYTES, MERGE_PATCH, ApiServer, Params, resource_path
from dispatcher.clusters.reply import Manifest, Outcome, Reply

BATCH = "batch/v1"


def jobs_path(namespace: str | None = None, name: str | None = None, sub: str = "") -> str:
    """Path of all Jobs, a namespace's Jobs, one Job, or its subresource."""
    return resource_path(BATCH, "jobs", namespace=namespace, name=name, sub=sub)


async def create_job(api: ApiServer, namespace: str, manifest: Manifest, *, dry_run: bool = False) -> Reply:
    """POST. OK, ALREADY_EXISTS, INVALID (validation), FORBIDDEN (also: quota, terminating namespace), NOT_FOUND
    (the namespace is missing). A resourceVersion is left out: the server answers 500 to one in a POST.
    """
    params: Params | None = {"dryRun": "All"} if dry_run else None
    reply = await api.request(
        "POST", jobs_path(namespace), params=params, body=_without_resource_version(manifest)
    )
    return _about(reply, namespace, (manifest.get("metadata") or {}).get("name", ""))


async def get_job(api: ApiServer, namespace: str, name: str) -> Reply:
    """GET one Job, as the most recent write left it (no resourceVersion asked for: a quorum read)."""
    reply = await api.request("GET", jobs_path(namespace, name))
    if reply.ok and (reply.body or {}).get("kind") != "Job":
        return _not_kubernetes(reply, "the answer is no Job")
    return _about(reply, namespace, name)


async def list_jobs(
    api: ApiServer,
    namespace: str | None = None,
    *,
    label_selector: str = "",
    field_selector: str = "",
    limit: int = 0,
) -> Reply:
    """GET Jobs in one piece; ``limit`` 0 means all. The items are in ``reply.body["items"]``."""
    params: dict[str, str | int] = {}
    if label_selector:
        params["labelSelector"] = label_selector
    if field_selector:
        params["fieldSelector"] = field_selector
    if limit:
        params["limit"] = limit
    return await api.request("GET", jobs_path(namespace), params=params or None, max_bytes=MAX_LIST_BYTES)


async def patch_job(
    api: ApiServer,
    namespace: str,
    name: str,
    patch: Any,
    *,
    content_type: str = MERGE_PATCH,
    subresource: str = "",
) -> Reply:
    """PATCH a Job or, with ``subresource="status"``, its status. ``patch``: a dict, or a list for JSON_PATCH.
    A failed ``test`` of a JSON patch is INVALID (422).
    """
    path = jobs_path(namespace, name, subresource)
    reply = await api.request("PATCH", path, body=patch, content_type=content_type)
    return _about(reply, namespace, name)


async def replace_job(api: ApiServer, namespace: str, name: str, manifest: Manifest) -> Reply:
    """PUT a Job. Its ``metadata.resourceVersion`` is the precondition: CONFLICT where it is not the latest."""
    return await _put(api, jobs_path(namespace, name), manifest)


async def replace_job_status(api: ApiServer, namespace: str, name: str, manifest: Manifest) -> Reply:
    """PUT ``/status``: status and metadata are taken from the manifest, its spec is ignored.
    ``metadata.resourceVersion`` is the precondition.
    """
    return await _put(api, jobs_path(namespace, name, "status"), manifest)


async def delete_job(
    api: ApiServer, namespace: str, name: str, uid: str, *, propagation: str = "Background"
) -> Reply:
    """DELETE this very Job. OK, NOT_FOUND, or CONFLICT (another UID has the name now).

    The propagation is always said: a batch/v1 DELETE without one orphans the Pods.
    """
    body = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": propagation,
        "preconditions": {"uid": uid},
    }
    return _about(await api.request("DELETE", jobs_path(namespace, name), body=body), namespace, name)


async def get_namespace(api: ApiServer, name: str, *, timeout: float | None = None) -> Reply:
    """GET one Namespace; ``kube-system``'s UID is the identity of a cluster."""
    reply = await api.request("GET", resource_path("v1", "namespaces", name=name), timeout=timeout)
    if reply.ok:
        metadata = (reply.body or {}).get("metadata")
        if not isinstance(metadata, dict) or metadata.get("name") != name or not _is_uid(metadata.get("uid")):
            return _not_kubernetes(reply, f"the answer is not the namespace {name}")
    return reply


async def create_namespace(api: ApiServer, manifest: Manifest) -> Reply:
    """POST a Namespace."""
    path = resource_path("v1", "namespaces")
    return await api.request("POST", path, body=_without_resource_version(manifest))


async def create_event(api: ApiServer, namespace: str, body: Manifest) -> Reply:
    """POST an Event (``v1``, or ``events.k8s.io/v1`` by its ``apiVersion``) in a namespace."""
    path = resource_path(body.get("apiVersion", "v1"), "events", namespace=namespace)
    return await api.request("POST", path, body=body)


async def server_version(api: ApiServer, *, timeout: float | None = None) -> Reply:
    """GET ``/version``: body ``{"gitVersion": "v1.36.3", …}``."""
    return await api.request("GET", "/version", timeout=timeout)


def _about(reply: Reply, namespace: str, name: str) -> Reply:
    """The reply, or a fault of the server where the Job in it is not the one that was asked about, or none at all."""
    if not reply.ok or reply.body is None or reply.body.get("kind") != "Job":
        return reply
    try:
        foreign_jobs.check(reply.body, namespace, name)
    except foreign_jobs.ForeignJobError as error:
        return _not_kubernetes(reply, str(error))
    return reply


def _not_kubernetes(reply: Reply, message: str) -> Reply:
    return Reply(Outcome.SERVER_ERROR, reply.code, reason="NotKubernetes", message=message[:1024])


def _is_uid(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 128 and value.isprintable()


async def _put(api: ApiServer, path: str, manifest: Manifest) -> Reply:
    if not manifest.get("metadata", {}).get("resourceVersion"):
        # The server would take it whatever was written meanwhile.
        raise ValueError("a PUT needs metadata.resourceVersion")
    return await api.request("PUT", path, body=manifest, content_type=JSON)


def _without_resource_version(manifest: Manifest) -> Manifest:
    metadata = manifest.get("metadata")
    if not isinstance(metadata, dict) or "resourceVersion" not in metadata:
        return manifest
    return manifest | {
        "metadata": {key: value for key, value in metadata.items() if key != "resourceVersion"}
    }
