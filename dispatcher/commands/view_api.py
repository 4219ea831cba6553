"""The dispatcher's view API, as the verbs ``pods`` and ``logs`` ask it."""

from typing import Final

from dispatcher.commands.job_events import VIEW
from dispatcher.commands.management import ManagementCluster
from dispatcher.commands.refusals import ClusterSaysNo

NOT_INSTALLED: Final = (
    "the dispatcher's view API is not installed on this cluster: set view.enabled of the chart job-dispatcher "
    "and of job-dispatcher-worker"
)


def view_path(management: ManagementCluster, job: str, sub: str) -> str:
    """The path of what belongs to a Job of the namespace to work in: ``pods``, ``log``, ``events``."""
    from urllib.parse import quote

    return f"/apis/{VIEW}/namespaces/{quote(management.namespace, '')}/jobs/{quote(job, '')}/{sub}"


def explained(management: ManagementCluster, error: ClusterSaysNo) -> ClusterSaysNo:
    """The error, or that the API is not installed where that is the cause."""
    if error.status in (403, 404, 503):
        try:
            if management.find(f"/apis/{VIEW}") is None:
                return ClusterSaysNo(NOT_INSTALLED)
        except ClusterSaysNo:
            return error
    return error
