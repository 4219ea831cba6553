"""Images made by hand, as there is no registry: a static busybox with all its applets, and the same for sandboxes."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from pathlib import Path
from typing import Any

# A name with a domain is taken as it is; a tag other than `latest` is not pulled when it is there.
BUSYBOX = "lab.jobdispatcher.io/busybox:1"
PAUSE = "lab.jobdispatcher.io/pause:1"

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
ACCOUNTS = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n"


def write_archive(target: Path, *, busybox: Path) -> None:
    """Both images as one archive in the form of `docker save`, which containerd imports."""
    layer = _layer(busybox)
    identity = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    images = {
        BUSYBOX: {"Cmd": ["/bin/sh"]},
        # Ended by SIGKILL after its pod, as it has no handler; nothing waits for it.
        PAUSE: {"Entrypoint": ["/bin/sleep", "2147483647"]},
    }
    manifest = []
    with tarfile.open(target, "w") as archive:
        _add(archive, "layer.tar", layer)
        for number, (name, settings) in enumerate(images.items()):
            configuration: dict[str, Any] = {
                "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
                "os": "linux",
                "config": {"Env": ["PATH=/bin"], **settings},
                "rootfs": {"type": "layers", "diff_ids": [identity]},
            }
            _add(archive, f"{number}.json", json.dumps(configuration).encode())
            manifest.append({"Config": f"{number}.json", "RepoTags": [name], "Layers": ["layer.tar"]})
        _add(archive, "manifest.json", json.dumps(manifest).encode())


def _layer(busybox: Path) -> bytes:
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as layer:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            layer.addfile(folder)
        _add(layer, "bin/busybox", busybox.read_bytes(), mode=0o755)
        _add(layer, "etc/passwd", ACCOUNTS.encode())
        for applet in sorted(set(applets) - {"busybox"}):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            layer.addfile(link)
    return content.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
