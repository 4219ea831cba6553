"""A Job, the clusters and the policies as a decision sees them, put together from the management cluster."""

from datetime import UTC, datetime
from typing import Final

from dispatcher.commands.connection import resource_path
from dispatcher.commands.management import WORKER_CLUSTERS, ManagementCluster
from dispatcher.commands.refusals import ClusterSaysNo, Manifest
from dispatcher.commands.worker_clusters import ready_condition
from dispatcher.core import capacity
from dispatcher.core.job import read_job
from dispatcher.core.names import ClusterName
from dispatcher.core.observation import Cluster, Observation, Rules
from dispatcher.core.policy import read_taints
from dispatcher.operator.policies import Policies

_NOT_GIVEN: Final = ("uid", "resourceVersion")


def observe(management: ManagementCluster, manifest: Manifest) -> Observation:
    """What a decision on this Job would look at now, apart from its mirrors.

    What is free on a cluster is its capacity less the active pods that its status counts, so it may lag behind by
    the ten seconds between two counts.

    Raises:
        ClusterSaysNo: no right to list WorkerClusters or DispatchPolicies.
    """
    namespace = manifest["metadata"].setdefault("namespace", management.namespace)
    for field in _NOT_GIVEN:
        manifest["metadata"].setdefault(field, "")
    job = read_job(manifest)
    found = management.get_all(management.clusters_path(), {})
    clusters = {cluster.name: cluster for cluster in map(read_cluster, found)}
    active = {
        ClusterName(cluster["metadata"]["name"]): (cluster.get("status") or {}).get("activePods") or 0
        for cluster in found
    }
    policies = Policies()
    for entry in management.get_all(
        resource_path(WORKER_CLUSTERS, "dispatchpolicies", namespace=namespace), {}
    ):
        policies.put(entry)
    policy, fault = policies.of(namespace, job.annotations)
    bounds = capacity.bounds(clusters.values())
    return Observation(
        job,
        datetime.now(UTC),
        Rules(""),
        clusters=clusters,
        namespace_labels=_labels(management, namespace),
        policy=policy,
        policy_fault=fault,
        room={name: max(0, bound - active[name]) for name, bound in bounds.items()},
    )


def _labels(management: ManagementCluster, namespace: str) -> dict[str, str]:
    try:
        found = management.get(resource_path("v1", "namespaces", name=namespace))
    except ClusterSaysNo as error:
        if error.status not in (403, 404):
            raise
        return {}
    return found["metadata"].get("labels") or {}


def read_cluster(manifest: Manifest) -> Cluster:
    """A WorkerCluster as its object shows it."""
    spec, metadata = manifest.get("spec") or {}, manifest["metadata"]
    ready = ready_condition(manifest)
    return Cluster(
        ClusterName(metadata["name"]),
        (manifest.get("status") or {}).get("clusterUID") or "",
        ready.get("status") == "True",
        reason=ready.get("reason") or "",
        message=ready.get("message") or "",
        weight=spec.get("weight", 1),
        unschedulable=bool(spec.get("unschedulable")),
        leaving="deletionTimestamp" in metadata,
        capacity=(spec.get("capacity") or {}).get("parallelism"),
        taints=read_taints(spec),
        labels=metadata.get("labels") or {},
        namespace_selector=spec.get("namespaceSelector"),
    )
