"""Objects of a file made ready for dispatch, and created."""

import json
from collections.abc import Collection, Sequence

from dispatcher.commands.connection import Connection
from dispatcher.commands.refusals import ClusterSaysNo, Manifest, WrongInput
from dispatcher.core.names import PREFERENCES_ANNOTATION


def prepare(manifests: Sequence[Manifest], *, managed_by: str, clusters: Sequence[str] = ()) -> None:
    """Set managedBy on the Jobs and CronJobs, and name their clusters where some are given.

    Raises:
        WrongInput: there is no Job, one belongs to another controller, or says itself where it is to run.
    """
    concerned = [manifest for manifest in manifests if is_batch(manifest, "Job", "CronJob")]
    if not concerned:
        raise WrongInput("there is no Job and no CronJob to dispatch")
    for manifest in concerned:
        label = f"{manifest['kind']} {name_of(manifest)}"
        job = manifest
        if manifest["kind"] == "CronJob":
            job = _mapping(_mapping(manifest, "spec", label), "jobTemplate", label)
        spec = _mapping(job, "spec", label)
        owner = spec.get("managedBy")
        if owner not in (None, managed_by):
            raise WrongInput(f"{label} is another controller's: its spec.managedBy is {owner}")
        spec["managedBy"] = managed_by
        if clusters:
            _choose(job, clusters, label)


def is_batch(manifest: Manifest, *kinds: str) -> bool:
    """Whether this is one of these kinds of batch/v1."""
    return manifest["apiVersion"] == "batch/v1" and manifest["kind"] in kinds


def name_of(manifest: Manifest) -> str:
    """Its name, or what its name will begin with."""
    metadata = manifest["metadata"]
    return str(metadata.get("name") or f"{metadata['generateName']}…")


def _mapping(holder: Manifest, field: str, label: str) -> Manifest:
    value = holder.get(field)
    if not isinstance(value, dict):
        raise WrongInput(f"{label} has no {field}")
    return value


def _choose(job: Manifest, clusters: Sequence[str], label: str) -> None:
    metadata = job.get("metadata") or {}
    annotations = metadata.get("annotations") or {}
    if PREFERENCES_ANNOTATION in annotations:
        raise WrongInput(
            f"{label} says itself where it runs ({PREFERENCES_ANNOTATION}): leave out --clusters"
        )
    preferences = {"clusters": {name: {"weight": 1} for name in clusters}}
    annotations = {**annotations, PREFERENCES_ANNOTATION: json.dumps(preferences)}
    job["metadata"] = {**metadata, "annotations": annotations}


def check_clusters(clusters: Collection[str], known: Collection[str]) -> None:
    """Raises ClusterSaysNo for the name of a cluster that there is not."""
    if unknown := [name for name in clusters if name not in known]:
        there = f"there are {', '.join(sorted(known))}" if known else "there are none"
        raise ClusterSaysNo(f"no worker cluster {', '.join(unknown)}; {there}")


class Creator:
    """Creates objects of any kind that the API server serves."""

    def __init__(self, connection: Connection, *, namespace: str, only_namespace: str | None) -> None:
        """``only_namespace``: the one that the user named; a manifest of another is refused."""
        self._connection = connection
        self._namespace = namespace
        self._only_namespace = only_namespace
        self._served: dict[str, dict[str, Manifest]] = {}

    def locate(self, manifest: Manifest) -> tuple[str, str]:
        """The path to POST it to, and the resource as kubectl names it (``job.batch``).

        Raises:
            WrongInput: its namespace is not the one that the user named.
            ClusterSaysNo: the server does not know its kind.
        """
        resource = self._resource(manifest)
        prefix, _, group = self._place(manifest["apiVersion"])
        namespace = ""
        if resource["namespaced"]:
            own = manifest["metadata"].get("namespace")
            if own and self._only_namespace and own != self._only_namespace:
                raise WrongInput(
                    f"{manifest['kind']} {name_of(manifest)} names the namespace {own}, "
                    f"which is not {self._only_namespace}; pass --namespace={own}"
                )
            namespace = f"/namespaces/{own or self._namespace}"
        singular = resource.get("singularName") or manifest["kind"].lower()
        return f"{prefix}{namespace}/{resource['name']}", f"{singular}.{group}" if group else singular

    def create(self, manifest: Manifest) -> tuple[Manifest, str]:
        """Create it; what the server made of it, and kubectl's name for it (``job.batch/pi``)."""
        path, resource = self.locate(manifest)
        created = self._connection.create(path, manifest, parameters={"fieldValidation": "Strict"})
        return created, f"{resource}/{created['metadata']['name']}"

    def _resource(self, manifest: Manifest) -> Manifest:
        version, kind = manifest["apiVersion"], manifest["kind"]
        if version not in self._served:
            prefix, _, _ = self._place(version)
            listed = self._connection.find(prefix) or {}
            self._served[version] = {
                entry["kind"]: entry for entry in listed.get("resources") or () if "/" not in entry["name"]
            }
        if kind not in self._served[version]:
            raise ClusterSaysNo(
                f'no matches for kind "{kind}" in version "{version}": is its CRD installed?', status=404
            )
        return self._served[version][kind]

    @staticmethod
    def _place(version: str) -> tuple[str, str, str]:
        group, _, _ = version.rpartition("/")
        return (f"/apis/{version}" if group else f"/api/{version}"), version, group
