"""A Python for images: this machine's own interpreter with its standard library."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

from hack.lab.kubelet.layer import Layer

# Of the standard library; no program in a pod needs them.
LEFT_OUT = ("test", "tests", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages")


def interpreter() -> Path:
    """The interpreter itself, not that of a virtual environment."""
    return Path(getattr(sys, "_base_executable", sys.executable))


def add_python(layer: Layer) -> None:
    """The interpreter at its own path, what it imports and what that is linked with."""
    program = interpreter()
    library = Path(sysconfig.get_path("stdlib"))
    left_out = {
        *LEFT_OUT,
        *(path.name for name in ("config-*", "lib-dynload/_tkinter*") for path in library.glob(name)),
    }
    layer.programs(program)
    if program.is_symlink():  # it looks for its library from here too
        layer.file(program.resolve())
    layer.tree(library, without=left_out)
    layer.libraries(path for path in (library / "lib-dynload").glob("*.so") if path.name not in left_out)
