"""The requests on ConfigMaps and Secrets that follow Jobs."""

from typing import Final

from dispatcher.clusters.client import METADATA_OBJECT, ApiServer, resource_path
from dispatcher.clusters.reply import Manifest, Reply

_RESOURCES: Final = {"ConfigMap": "configmaps", "Secret": "secrets"}


def path(kind: str, namespace: str, name: str | None = None) -> str:
    """Path of a namespace's objects of a kind, or of one of them. Raises KeyError for other kinds."""
    return resource_path("v1", _RESOURCES[kind], namespace=namespace, name=name)


async def get(api: ApiServer, kind: str, namespace: str, name: str) -> Reply:
    """GET one with its data."""
    return await api.get(path(kind, namespace, name))


async def get_metadata(api: ApiServer, kind: str, namespace: str, name: str) -> Reply:
    """GET nothing but its metadata."""
    return await api.request("GET", path(kind, namespace, name), accept=METADATA_OBJECT)


async def create(api: ApiServer, kind: str, namespace: str, manifest: Manifest) -> Reply:
    """POST. FORBIDDEN (rights, quota, terminating namespace), ALREADY_EXISTS, INVALID."""
    return await api.request("POST", path(kind, namespace), body=manifest)


async def replace(api: ApiServer, kind: str, namespace: str, manifest: Manifest) -> Reply:
    """PUT; ``metadata.resourceVersion`` is the precondition: CONFLICT where it is not the latest."""
    if not manifest["metadata"].get("resourceVersion"):
        raise ValueError("a PUT needs metadata.resourceVersion")
    return await api.request("PUT", path(kind, namespace, manifest["metadata"]["name"]), body=manifest)
