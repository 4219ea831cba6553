"""Images made by hand, as there is no registry: a static busybox with all its applets, and the same for sandboxes."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hack.lab.kubelet.layer import Layer

# A name with a domain is taken as it is; a tag other than `latest` is not pulled when it is there.
BUSYBOX = "lab.jobdispatcher.io/busybox:1"
PAUSE = "lab.jobdispatcher.io/pause:1"

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
ACCOUNTS = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n"


@dataclass(frozen=True, slots=True)
class Image:
    """One image of one layer. `settings` are its configuration as in a Dockerfile: Env, Entrypoint, Cmd, User, …"""

    name: str
    layer: bytes = field(repr=False)
    settings: dict[str, Any]


def write_archive(target: Path, images: Sequence[Image]) -> None:
    """All of them as one archive in the form of `docker save`, which containerd imports; equal layers once."""
    manifest = []
    written: dict[bytes, tuple[str, str]] = {}
    with tarfile.open(target, "w") as archive:
        for number, image in enumerate(images):
            if image.layer not in written:
                file = f"layer-{number}.tar"
                written[image.layer] = (file, f"sha256:{hashlib.sha256(image.layer).hexdigest()}")
                _add(archive, file, image.layer)
            file, identity = written[image.layer]
            configuration = {
                "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
                "os": "linux",
                "config": image.settings,
                "rootfs": {"type": "layers", "diff_ids": [identity]},
            }
            _add(archive, f"{number}.json", json.dumps(configuration).encode())
            manifest.append({"Config": f"{number}.json", "RepoTags": [image.name], "Layers": [file]})
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def own_images(busybox: Path) -> list[Image]:
    """Those that every node has."""
    layer = Layer()
    add_busybox(layer, busybox)
    content, environment = layer.finish(), {"Env": ["PATH=/bin"]}
    return [
        Image(BUSYBOX, content, {**environment, "Cmd": ["/bin/sh"]}),
        # Ended by SIGKILL after its pod, as it has no handler; nothing waits for it.
        Image(PAUSE, content, {**environment, "Entrypoint": ["/bin/sleep", "2147483647"]}),
    ]


def add_busybox(layer: Layer, busybox: Path) -> None:
    """busybox in /bin under the names of all its applets, and the folders and accounts that programs expect."""
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    layer.folder("/root", mode=0o700)
    layer.folder("/tmp", mode=0o1777)
    layer.file(busybox, at="/bin/busybox")
    layer.write("/etc/passwd", ACCOUNTS.encode())
    for applet in sorted(set(applets) - {"busybox"}):
        layer.link(f"/bin/{applet}", "busybox")


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, io.BytesIO(content))
