"""The one home of every name that leaves the process: labels, annotations, conditions, reasons."""

from typing import Final, NewType

ClusterName = NewType("ClusterName", str)
"""``metadata.name`` of a WorkerCluster."""

PREFIX: Final = "jobdispatcher.io/"
API_GROUP: Final = "jobdispatcher.io"
API_VERSION: Final = "v1alpha1"

DEFAULT_MANAGED_BY: Final = "jobdispatcher.io/dispatcher"
RESERVED_MANAGED_BY: Final = frozenset({"kubernetes.io/job-controller", "kueue.x-k8s.io/multikueue"})

FINALIZER: Final = PREFIX + "mirrors"
"""On a management Job: its mirrors still have to be removed."""

# Annotations of a management Job.
PLACEMENT_ANNOTATION: Final = PREFIX + "placement"
POLICY_ANNOTATION: Final = PREFIX + "policy"
DELETION_ANNOTATION: Final = PREFIX + "deletion"
PREFERENCES_ANNOTATION: Final = "federation.kubernetes.io/job-preferences"

# Labels of a mirror.
ORIGIN_LABEL: Final = PREFIX + "origin"
JOB_UID_LABEL: Final = PREFIX + "job-uid"
SHARE_LABEL: Final = PREFIX + "share"
BUCKET_LABEL: Final = PREFIX + "bucket"

# Annotations of a mirror.
SHARE_ANNOTATION: Final = PREFIX + "share"
JOB_NAME_ANNOTATION: Final = PREFIX + "job-name"
SEEDED_ANNOTATION: Final = PREFIX + "seeded"
TEMPLATE_ANNOTATION: Final = PREFIX + "template"

# On a Secret with a worker's kubeconfig.
TOKEN_RENEWAL_LABEL: Final = PREFIX + "token-renewal"
TOKEN_RENEWAL_ENABLED: Final = "enabled"
"""The dispatcher renews the token in it."""

# On a Lease of the dispatcher (its label is ORIGIN_LABEL).
SHARDS_ANNOTATION: Final = PREFIX + "shards"
"""Over how many Leases its holder divides Jobs."""
AGREED_SHARDS_ANNOTATION: Final = PREFIX + "agreed-shards"
"""On shard 0's Lease: over how many all replicas are to divide them."""
WANTED_BY_ANNOTATION: Final = PREFIX + "wanted-by"
"""The replica that asks the holder to hand this shard over, for it holds fewer."""

# Condition types of a management Job beyond the built-in ones.
DISPATCHED: Final = "Dispatched"
FULLY_PLACED: Final = "FullyPlaced"
WAITING_FOR_ROOM: Final = "WaitingForRoom"
POLICY_UNUSABLE: Final = "PolicyUnusable"
"""Reason of Dispatched=False: the Job's DispatchPolicy is missing or cannot be read."""
DEFAULT_POLICY_NAME: Final = "default"
"""The DispatchPolicy of a namespace's Jobs that name none."""

# Of a WorkerCluster.
DRAIN_FINALIZER: Final = PREFIX + "drain"
"""On a WorkerCluster: mirrors are still there."""
DRAIN_TAINT: Final = PREFIX + "drain"
FORGET_ANNOTATION: Final = PREFIX + "forget"
"""A person says that the cluster will not come back; nothing is waited for there."""

# More annotations of a mirror.
ELAPSED_ANNOTATION: Final = PREFIX + "elapsed-seconds"
"""How much of the Job's activeDeadlineSeconds had passed when this mirror was (re)started."""
APPLIED_ANNOTATION: Final = PREFIX + "applied"
"""Which label and annotation keys came from the Job, so that a removed one is removed here too."""
SOURCE_ANNOTATION: Final = PREFIX + "source"
"""On a copied ConfigMap or Secret: UID and resourceVersion of what it was copied from."""
CREDITED_ANNOTATION: Final = PREFIX + "credited"
"""On a mirror with completions: so many of ``status.succeeded`` are ours; that part of the work is done elsewhere."""
WOUND_DOWN_ANNOTATION: Final = PREFIX + "wound-down"
"""On a work queue's mirror: one of ``status.succeeded`` is ours, put there to end the queue."""

# Labels and annotations that an API server or kubectl generates and a mirror must not carry over.
GENERATED_LABELS: Final = frozenset(
    {"controller-uid", "batch.kubernetes.io/controller-uid", "job-name", "batch.kubernetes.io/job-name"}
)
GENERATED_ANNOTATIONS: Final = frozenset({"kubectl.kubernetes.io/last-applied-configuration"})
