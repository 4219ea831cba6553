"""A layer of an image, made of this machine's own files: programs come with the libraries they need."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from collections.abc import Collection, Iterable
from pathlib import Path, PurePosixPath

# `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, and of the loader `/lib64/ld-linux-x86-64.so.2 (0x…)`.
LIBRARY = re.compile(r"^\s+(?:\S+ => )?(/\S+) \(0x", re.MULTILINE)


class Layer:
    """Files, all of them root's and readable for everybody. Paths in the image are absolute."""

    def __init__(self) -> None:
        self._content = io.BytesIO()
        self._archive = tarfile.open(fileobj=self._content, mode="w")  # noqa: SIM115 (closed by `finish`)
        self._paths = {"/"}

    def finish(self) -> bytes:
        """The layer as an uncompressed archive; nothing can be added any more."""
        self._archive.close()
        return self._content.getvalue()

    def folder(self, path: str, *, mode: int = 0o755) -> None:
        """A folder, with those above it, unless it is there."""
        if path in self._paths:
            return
        self.folder(str(PurePosixPath(path).parent))
        entry = self._entry(path)
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        self._archive.addfile(entry)

    def write(self, path: str, content: bytes, *, mode: int = 0o644, changed: float = 0.0) -> None:
        """A file, unless it is there. `changed` is its time of modification, in seconds."""
        if path in self._paths:
            return
        self.folder(str(PurePosixPath(path).parent))
        entry = self._entry(path)
        entry.size, entry.mode, entry.mtime = len(content), mode, int(changed)
        self._archive.addfile(entry, io.BytesIO(content))

    def link(self, path: str, target: str) -> None:
        """A symbolic link, unless something is there."""
        if path in self._paths:
            return
        self.folder(str(PurePosixPath(path).parent))
        entry = self._entry(path)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._archive.addfile(entry)

    def file(self, source: Path, *, at: str | None = None) -> None:
        """A file of this machine; of a link, what it leads to."""
        facts = source.stat()
        mode = facts.st_mode & 0o777 | 0o444
        self.write(at or str(source), source.read_bytes(), mode=mode, changed=facts.st_mtime)

    def tree(self, source: Path, *, at: str | None = None, without: Collection[str] = ()) -> None:
        """A folder with all below it, but what has a name in `without`; links stay links."""
        top = at or str(source)
        self.folder(top)
        for entry in sorted(os.scandir(source), key=lambda it: it.name):
            if entry.name in without:
                continue
            path = f"{top}/{entry.name}"
            if entry.is_symlink():
                self.link(path, os.readlink(entry.path))
            elif entry.is_dir():
                self.tree(Path(entry.path), at=path, without=without)
            elif entry.is_file():
                self.file(Path(entry.path), at=path)

    def programs(self, *sources: Path) -> None:
        """Programs at their own paths, with their libraries and the loader."""
        for source in sources:
            self.file(source)
        self.libraries(sources)

    def libraries(self, binaries: Iterable[Path], *, inside: Path | None = None) -> None:
        """What these programs and libraries are linked with; not what lies in the folder `inside`, which has it."""
        for library in libraries(binaries):
            if inside is None or not Path(library).is_relative_to(inside):
                self.file(Path(library))
        if Path("/etc/ld.so.cache").exists():
            self.file(Path("/etc/ld.so.cache"))

    def _entry(self, path: str) -> tarfile.TarInfo:
        self._paths.add(path)
        return tarfile.TarInfo(path.lstrip("/"))


def libraries(binaries: Iterable[Path]) -> list[str]:
    """Paths of all libraries that these are linked with, directly or not, sorted. A static program has none."""
    command = ["ldd", *map(str, binaries)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return sorted(set(LIBRARY.findall(said)))
