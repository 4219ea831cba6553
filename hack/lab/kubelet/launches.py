"""The command lines and configurations of a real node, with the reason of every setting that is not plain."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from hack.lab.components import Launch
from hack.lab.kubelet.images import PAUSE
from hack.lab.kubelet.machine import Claim
from hack.lab.kubelet.support import Programs
from hack.lab.pki import PlaneCertificates

KUBELET_PORT = 10250  # of the node's own address
SOCKET = "/run/containerd/containerd.sock"  # in the node's mount namespace

# What a kubelet sets at its start (setupKernelTunables). In the node's namespace these are plain files.
SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)

# Makes the node's own /run, /var/lib and /var/log, then keeps the namespace. $1: the node's folder; the rest: sysctls.
NAMESPACE = """\
node=$1
shift
for covered in /run /var/lib /var/log; do mount -n -t tmpfs -o mode=755 tmpfs "$covered"; done
mkdir /var/lib/containerd /var/lib/kubelet /var/log/pods
mount -n --bind "$node/containerd" /var/lib/containerd
mount -n --bind "$node/kubelet" /var/lib/kubelet
mount -n --bind "$node/pods" /var/log/pods
for sysctl in "$@"; do
    mkdir -p "$node/sysctl/${sysctl%/*}"
    cat "/proc/sys/$sysctl" >"$node/sysctl/$sysctl"
    mount -n --bind "$node/sysctl/$sysctl" "/proc/sys/$sysctl"
done
: >"$node/ready"
exec sleep infinity
"""


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """Where one node keeps what it reads and writes."""

    folder: Path

    @property
    def ready(self) -> Path:
        """There once the namespace is complete."""
        return self.folder / "ready"

    @property
    def images(self) -> Path:
        return self.folder / "images.tar"

    @property
    def networks(self) -> Path:
        return self.folder / "networks"

    def make(self) -> None:
        """The folders that the namespace shows elsewhere."""
        for name in ("containerd", "kubelet", "pods", "networks"):
            (self.folder / name).mkdir(parents=True)


def namespace(files: NodeFiles, programs: Programs) -> Launch:
    """Holds the node's mount namespace, in which containerd and the kubelet can be started again and again."""
    command = [str(programs.unshare), "--mount", "--propagation", "slave", "--"]
    command += ["/bin/sh", "-euc", NAMESPACE, "sh", str(files.folder), *SYSCTLS]
    return Launch("node", command, None, "", None)


def inside(programs: Programs, holder: int, command: list[str]) -> list[str]:
    """`command`, run in the namespace that the process `holder` holds."""
    return [str(programs.nsenter), f"--mount=/proc/{holder}/ns/mnt", "--", *command]


def containerd(
    files: NodeFiles, programs: Programs, *, claim: Claim, holder: int, snapshotter: str
) -> Launch:
    """containerd with only what a kubelet needs of it."""
    network = {
        "cniVersion": "0.4.0",
        "name": "lab",
        "plugins": [
            {
                "type": "bridge",
                "bridge": claim.bridge,
                # As a gateway the plugin would turn on forwarding for the whole machine. The bridge has its address
                # already, so pods reach the machine, and nothing beyond it.
                "isGateway": False,
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni/networks",
                    "ranges": [[{"subnet": claim.pods, "gateway": claim.gateway}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }
    (files.networks / "10-lab.conflist").write_text(json.dumps(network, indent=2))
    configuration = files.folder / "containerd.toml"
    configuration.write_text(_containerd_configuration(files, programs, snapshotter=snapshotter))
    command = inside(programs, holder, [str(programs.containerd), "--config", str(configuration)])
    return Launch("containerd", command, None, programs.containerd_version, None)


def _containerd_configuration(files: NodeFiles, programs: Programs, *, snapshotter: str) -> str:
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    disabled = [f"io.containerd.snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs")]
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = {json.dumps(disabled)}

[grpc]
address = "{SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"

[{cri}]
sandbox_image = "{PAUSE}"
# Without the capability SYS_RESOURCE no sandbox would start ("can't get final child's PID").
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
disable_apparmor = true
stream_server_address = "127.0.0.1"
stream_server_port = "0"

[{cri}.containerd]
snapshotter = "{snapshotter}"
default_runtime_name = "runc"

[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[{cri}.containerd.runtimes.runc.options]
BinaryName = "{programs.runc}"
SystemdCgroup = false

[{cri}.cni]
bin_dir = "{programs.plugins}"
conf_dir = "{files.networks}"
"""


def kubelet(
    files: NodeFiles,
    programs: Programs,
    *,
    program: Path,
    version: str,
    node: str,
    claim: Claim,
    holder: int,
    certificates: PlaneCertificates,
    kubeconfig: Path,
) -> Launch:
    """The kubelet of `node`; `kubeconfig` is the account system:node:NODE."""
    configuration = files.folder / "kubelet.json"
    content = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": claim.address,
        "port": KUBELET_PORT,
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(certificates.authority)},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        # Two kubelets in one would end each other's pods.
        "cgroupRoot": f"/{claim.cgroup}",
        "enforceNodeAllocatable": ["pods"],
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "evictionHard": {"memory.available": "100Mi"},
        # There is no DNS server; without an address of one, every pod gets an Event about it.
        "clusterDNS": [claim.gateway],
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "imageGCHighThresholdPercent": 100,  # never: what is removed could not be pulled again
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        "staticPodPath": "",
    }
    configuration.write_text(json.dumps(content, indent=2))
    flags = {
        "config": configuration,
        "kubeconfig": kubeconfig,
        "root-dir": "/var/lib/kubelet",
        "cert-dir": "/var/lib/kubelet/pki",
        "hostname-override": node,
        "node-ip": claim.address,
    }
    command = [str(program), *(f"--{name}={value}" for name, value in flags.items())]
    return Launch("kubelet", inside(programs, holder, command), KUBELET_PORT, version, None)
