"""The command line of each component of a plane, with the reason of every flag that is not plain."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from hack.lab.binaries import KWOK, Binaries
from hack.lab.pki import FRONT_PROXY_CLIENT, KeyPair, PlaneCertificates
from hack.lab.ports import ADDRESS

SERVICE_RANGE = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
STAGES = Path(__file__).parent / "stages"

# A node counts as gone after three of its signs of life (stages/node.yaml) are missing.
NODE_GRACE = "3m30s"

CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "cronjob-controller",
    "garbage-collector-controller",
    "job-controller",
    "namespace-controller",
    "node-lifecycle-controller",
    "pod-garbage-collector-controller",
    "resourcequota-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "taint-eviction-controller",
    "ttl-after-finished-controller",
    "validatingadmissionpolicy-status-controller",
)

# What Deployments need, and the API server to find their pods behind a Service.
DEPLOYMENT_CONTROLLERS = ("deployment-controller", "endpointslice-controller", "replicaset-controller")

# Who wrote what, at the metadata level. Left out: probes, and what the plane's own parts only read.
AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "omitManagedFields": True,
    "rules": [
        {
            "level": "None",
            "nonResourceURLs": ["/healthz*", "/livez*", "/readyz*", "/metrics", "/openapi*", "/version"],
        },
        {"level": "None", "users": ["system:apiserver"]},
        {
            "level": "None",
            "users": ["system:kube-controller-manager", "system:kube-scheduler", "lab:nodes"],
            "verbs": ["get", "list", "watch"],
        },
        {
            "level": "None",
            "userGroups": ["system:serviceaccounts:kube-system"],
            "verbs": ["get", "list", "watch"],
        },
        {
            "level": "None",
            "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}],
            "namespaces": ["kube-node-lease", "kube-system"],
        },
        {"level": "Metadata"},
    ],
}


OWN_LOGS = ("told", "bulk")
"""Containers of these names have a log of their own on each plane, for tests and measurements that write it."""


@dataclass(frozen=True, slots=True)
class PlaneFiles:
    """Where one plane keeps what its components read and write."""

    folder: Path
    certificates: PlaneCertificates
    audit_log: Path

    @property
    def pod_log(self) -> Path:
        """The log of every container of the plane's kwok nodes that has none of its own, in CRI's form."""
        return self.folder / "pods.log"

    @property
    def previous_pod_log(self) -> Path:
        """What every container wrote before its last restart."""
        return self.folder / "previous.log"

    @property
    def controller_manager_kubeconfig(self) -> Path:
        return self.folder / "controller-manager.kubeconfig"

    @property
    def scheduler_kubeconfig(self) -> Path:
        return self.folder / "scheduler.kubeconfig"

    @property
    def nodes_kubeconfig(self) -> Path:
        return self.folder / "nodes.kubeconfig"


@dataclass(frozen=True, slots=True)
class Launch:
    """How one component is started. `health` is the path on its port that answers 200 when it works, if it has one."""

    name: str
    command: list[str]
    port: int | None
    version: str
    health: str | None


def etcd(files: PlaneFiles, binaries: Binaries, *, port: int, peer_port: int, version: str) -> Launch:
    """One member that does not wait for the disk: its data are worth nothing after a crash of the machine."""
    certificates = files.certificates
    url, peer = f"https://{ADDRESS}:{port}", f"https://{ADDRESS}:{peer_port}"
    flags = {
        "name": "lab",
        "data-dir": files.folder / "etcd",
        "listen-client-urls": url,
        "advertise-client-urls": url,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"lab={peer}",
        "cert-file": certificates.server.certificate,
        "key-file": certificates.server.key,
        "client-cert-auth": "true",
        "trusted-ca-file": certificates.authority,
        "peer-cert-file": certificates.server.certificate,
        "peer-key-file": certificates.server.key,
        "peer-client-cert-auth": "true",
        "peer-trusted-ca-file": certificates.authority,
        "unsafe-no-fsync": "true",
        "quota-backend-bytes": 4 << 30,
        "auto-compaction-mode": "periodic",
        "auto-compaction-retention": "15m",
        "log-level": "warn",
    }
    return Launch("etcd", _line(binaries.etcd, flags), port, version, "/readyz")


def apiserver(
    files: PlaneFiles, binaries: Binaries, *, port: int, etcd_port: int, routes_to_endpoints: bool = False
) -> Launch:
    """The API server as kubeadm and kind set it up, so that everything that works there works here.

    `routes_to_endpoints`: it calls the pods behind a Service, not its address, which leads nowhere without kube-proxy.
    It then calls no ExternalName any more.
    """
    certificates = files.certificates
    policy = files.folder / "audit-policy.json"
    policy.write_text(json.dumps(AUDIT_POLICY, indent=2))
    flags = {
        "etcd-servers": f"https://{ADDRESS}:{etcd_port}",
        "etcd-cafile": certificates.authority,
        "etcd-certfile": certificates.etcd_client.certificate,
        "etcd-keyfile": certificates.etcd_client.key,
        "bind-address": ADDRESS,
        "advertise-address": ADDRESS,
        "secure-port": port,
        # Endpoints of the Service `kubernetes` may not be loopback addresses, and nobody uses them here.
        "endpoint-reconciler-type": "none",
        "tls-cert-file": certificates.server.certificate,
        "tls-private-key-file": certificates.server.key,
        "client-ca-file": certificates.authority,
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "service-account-key-file": certificates.service_account.certificate,
        "service-account-signing-key-file": certificates.service_account.key,
        "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
        "service-cluster-ip-range": SERVICE_RANGE,
        # The aggregation layer needs all of these, or aggregated API servers cannot tell who asks.
        "requestheader-client-ca-file": certificates.front_proxy_authority,
        "requestheader-allowed-names": FRONT_PROXY_CLIENT,
        "requestheader-username-headers": "X-Remote-User",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "proxy-client-cert-file": certificates.front_proxy_client.certificate,
        "proxy-client-key-file": certificates.front_proxy_client.key,
        "kubelet-client-certificate": certificates.kubelet_client.certificate,
        "kubelet-client-key": certificates.kubelet_client.key,
        "kubelet-preferred-address-types": "InternalIP",
        "allow-privileged": "true",
        "enable-aggregator-routing": str(routes_to_endpoints).lower(),
        "max-requests-inflight": 2000,
        "max-mutating-requests-inflight": 1000,
        "audit-policy-file": policy,
        "audit-log-path": files.audit_log,
    }
    version = binaries.kubernetes_version
    return Launch("kube-apiserver", _line(binaries.kube_apiserver, flags), port, version, "/readyz")


def controller_manager(
    files: PlaneFiles, binaries: Binaries, *, port: int, deployments: bool = False
) -> Launch:
    """The built-in controllers that Jobs, their pods, namespaces and accounts need."""
    certificates = files.certificates
    flags = {
        "kubeconfig": files.controller_manager_kubeconfig,
        "controllers": ",".join([*CONTROLLERS, *(DEPLOYMENT_CONTROLLERS if deployments else ())]),
        "use-service-account-credentials": "true",
        "service-account-private-key-file": certificates.service_account.key,
        "root-ca-file": certificates.authority,
        "leader-elect": "false",
        "kube-api-qps": 1000,
        "kube-api-burst": 2000,
        "node-monitor-grace-period": NODE_GRACE,
        **_serving(certificates, port),
    }
    version = binaries.kubernetes_version
    return Launch(
        "kube-controller-manager", _line(binaries.kube_controller_manager, flags), port, version, "/healthz"
    )


def scheduler(files: PlaneFiles, binaries: Binaries, *, port: int) -> Launch:
    """The scheduler, without its client's rate limit of 50 requests a second."""
    configuration = files.folder / "scheduler.json"
    content = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": str(files.scheduler_kubeconfig), "qps": 1000, "burst": 2000},
        "leaderElection": {"leaderElect": False},
    }
    configuration.write_text(json.dumps(content, indent=2))
    flags = {"config": configuration, **_serving(files.certificates, port)}
    version = binaries.kubernetes_version
    return Launch("kube-scheduler", _line(binaries.kube_scheduler, flags), port, version, "/healthz")


def kwok(files: PlaneFiles, binaries: Binaries, *, port: int) -> Launch:
    """The kubelet of all fake nodes; the API server reaches it on `port` (logs, metrics)."""
    configuration = files.folder / "kwok.yaml"
    options = {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "metadata": {"name": "lab"},
        "options": {
            "manageNodesWithAnnotationSelector": "kwok.x-k8s.io/node=fake",
            "cidr": "10.128.0.0/12",
            "nodeIP": ADDRESS,
            "nodePort": port,
            "serverAddress": f"{ADDRESS}:{port}",
            "tlsCertFile": str(files.certificates.server.certificate),
            "tlsPrivateKeyFile": str(files.certificates.server.key),
            # Without these, kwok 0.8 takes 0, not its documented defaults, for a configuration from a file.
            "podPlayStageParallelism": 16,
            "nodePlayStageParallelism": 4,
            "nodeLeaseParallelism": 4,
            "podsOnNodeSyncParallelism": 1,
            "nodeLeaseDurationSeconds": 0,
            "enableDebuggingHandlers": True,
        },
    }
    files.pod_log.write_text("2026-01-01T00:00:00.000000000Z stdout F started\n")
    files.previous_pod_log.write_text("2025-12-31T23:59:59.000000000Z stdout F crashed\n")
    own = [
        {"containers": [name], "logsFile": str(files.folder / f"{name}.log"), "previousLogsFile": ""}
        for name in OWN_LOGS
    ]
    of_all = {"logsFile": str(files.pod_log), "previousLogsFile": str(files.previous_pod_log)}
    logs = {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "ClusterLogs",
        "metadata": {"name": "lab"},
        "spec": {"logs": [*own, of_all]},
    }
    stages = [(STAGES / name).read_text() for name in ("node.yaml", "pod.yaml")]
    documents = [yaml.safe_dump(entry, sort_keys=False) for entry in (options, logs)]
    configuration.write_text("---\n".join([*documents, *stages]))
    flags = {"config": configuration, "kubeconfig": files.nodes_kubeconfig, "v": "WARN"}
    return Launch("kwok", _line(binaries.kwok, flags), port, KWOK, "/healthz")


def scripter(files: PlaneFiles, *, server: str) -> Launch:
    """Plays the pods that have a script (hack/lab/scripter), by the API server at `server`."""
    identity = files.certificates.nodes
    flags = {
        "server": server,
        "authority": files.certificates.authority,
        "certificate": identity.certificate,
        "key": identity.key,
    }
    command = [
        sys.executable,
        "-m",
        "hack.lab.scripter",
        *(f"--{name}={value}" for name, value in flags.items()),
    ]
    return Launch("scripter", command, None, "", None)


def _serving(certificates: PlaneCertificates, port: int) -> dict[str, object]:
    """Flags of a component's own server; its metrics need no account, as they are asked for by the lab's tests."""
    pair: KeyPair = certificates.server
    return {
        "bind-address": ADDRESS,
        "secure-port": port,
        "tls-cert-file": pair.certificate,
        "tls-private-key-file": pair.key,
        "authorization-always-allow-paths": "/healthz,/readyz,/livez,/metrics",
    }


def _line(program: Path, flags: Mapping[str, object]) -> list[str]:
    return [str(program), *(f"--{name}={value}" for name, value in flags.items())]
