"""The settings of a running dispatcher, each with its unit and default; flags carry the same names."""

from dataclasses import dataclass, field
from datetime import timedelta

from dispatcher.core import names
from dispatcher.operator.lease_times import LeaseTimes

MOST_SHARDS = 64
"""Jobs are hashed into 256 buckets: with so many shards, none has a third more of them than another."""


class SettingsError(ValueError):
    """A setting that cannot work; the message says why and what to use instead."""


@dataclass(frozen=True, slots=True)
class Settings:
    """``kubeconfig`` None: the in-cluster account. ``metrics_address``: host:port, empty for none."""

    kubeconfig: str | None = None
    managed_by: str = names.DEFAULT_MANAGED_BY
    namespace: str = "job-dispatcher"
    metrics_address: str = "127.0.0.1:8080"
    metrics_authentication: bool = False
    """Whether /metrics asks the management cluster who may read it."""
    metrics_tls_certificate: str = ""
    """File with the certificate to serve that port with; empty for plain HTTP."""
    metrics_tls_key: str = ""
    allow_insecure_kubeconfigs: bool = False
    deletion_give_up_after: timedelta = timedelta(minutes=5)
    settle_timeout: float = 10.0
    """Seconds after a start that new Jobs wait for clusters that have not answered yet."""
    orphan_interval: float = 20.0
    """Seconds between two looks for mirrors whose Job is gone."""
    worker_memory_limit: int = 256
    """MiB that the mirrors of one worker cluster may take here; one with more is not used."""
    concurrency: int = 32
    """Jobs worked on at once."""
    token_renewal: bool = False
    """Whether workers' tokens are renewed (needs update on Secrets in our namespace)."""
    priority_order: bool = False
    """Whether PriorityClasses are read, by which Jobs that wait for room are served."""
    leader_elect: bool = False
    """Whether only the holder of a Lease acts; otherwise this is the only process there may be."""
    lease_times: LeaseTimes = field(default_factory=LeaseTimes)
    shards: int = 1
    """Over how many Leases Jobs are divided; more than one needs ``leader_elect``."""
    view_address: str = ""
    """host:port of the aggregated API ``view.jobdispatcher.io``; empty for none."""
    view_service: str = "job-dispatcher-view"
    """Name of its Service, in our namespace."""
    log_level: str = "info"
    log_format: str = "text"

    def __post_init__(self) -> None:
        if self.shards > 1 and not self.leader_elect:
            raise SettingsError(f"--shards {self.shards} needs --leader-elect: every shard is held by Lease")
        if not 1 <= self.shards <= MOST_SHARDS:
            raise SettingsError(f"--shards {self.shards} is not between 1 and {MOST_SHARDS}")
        if bool(self.metrics_tls_certificate) != bool(self.metrics_tls_key):
            raise SettingsError("--metrics-tls-certificate and --metrics-tls-key go together: give both")
        if self.managed_by in names.RESERVED_MANAGED_BY:
            raise SettingsError(
                f"--managed-by {self.managed_by} is reserved for another controller; "
                f"use a value of your own, such as {names.DEFAULT_MANAGED_BY}"
            )
        prefix, slash, path = self.managed_by.partition("/")
        if not (prefix and slash and path) or len(self.managed_by) > 63:
            raise SettingsError(
                f"--managed-by {self.managed_by!r} is no domain-prefixed path of at most 63 characters, "
                f"such as {names.DEFAULT_MANAGED_BY}"
            )
