"""The controller's image without a container engine: what the Dockerfile says, on this machine's own Python.

The layers of the base image are missing: the interpreter, its library and what they are linked with are this machine's.
All that the product adds is as in the Dockerfile: the build step, the folder, the account, the command.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

from hack.lab.kubelet.images import Image
from hack.lab.kubelet.layer import Layer
from hack.lab.kubelet.python import add_python, interpreter

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "Dockerfile"
BASE_PATH = "/usr/local/bin:/usr/bin:/bin"
BUILD_SECONDS = 570.0


class ImageError(RuntimeError):
    """The image cannot be made."""


def assemble(target: Path) -> None:
    """Runs the Dockerfile's build step with this machine's Python; `target` is then a complete installation.

    Raises ImageError.
    """
    command: list[str | Path] = ["sh", ROOT / "hack" / "image" / "assemble", interpreter(), ROOT, target]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS)
    if done.returncode != 0:
        raise ImageError(f"the build step fails: {done.stderr.strip()}")


def controller_image(name: str, *, assembled: Path) -> Image:
    """The image `name` from an installation that `assemble` made.

    Raises ImageError where the Dockerfile says something that this does not know.
    """
    place, settings = read_dockerfile(DOCKERFILE.read_text())
    layer = Layer()
    layer.folder("/tmp", mode=0o1777)
    # What names its own place: the environment's configuration and the first lines of scripts.
    for path in [assembled / "pyvenv.cfg", *sorted((assembled / "bin").iterdir())]:
        if not path.is_symlink() and path.is_file():
            content = path.read_bytes().replace(bytes(assembled), place.encode())
            mode = path.stat().st_mode & 0o777 | 0o444
            layer.write(f"{place}/{path.relative_to(assembled)}", content, mode=mode)
    layer.tree(assembled, at=place)
    add_python(layer)
    layer.libraries(assembled.rglob("*.so*"), inside=assembled)
    return Image(name, layer.finish(), settings)


def read_dockerfile(text: str) -> tuple[str, dict[str, Any]]:
    """Of the last stage: the folder that the build stage's result is copied to, and the image's configuration.

    Raises ImageError.
    """
    place = ""
    environment = {"PATH": BASE_PATH}
    settings: dict[str, Any] = {}
    for word, rest in _last_stage(text):
        match word:
            case "COPY" if found := re.fullmatch(r"--from=build (\S+) (\S+)", rest):
                place = found[2]
            case "ENV":
                for pair in shlex.split(rest):
                    key, _, value = pair.partition("=")
                    environment[key] = value.replace("$PATH", environment["PATH"])
            case "LABEL":
                settings["Labels"] = dict(pair.split("=", 1) for pair in shlex.split(rest))
            case "USER":
                settings["User"] = rest
            case "WORKDIR":
                settings["WorkingDir"] = rest
            case "ENTRYPOINT" | "CMD":
                settings[word.capitalize()] = json.loads(rest)
            case _:
                raise ImageError(f"the Dockerfile's last stage says {word} {rest}, which is not known here")
    if not place:
        raise ImageError("the Dockerfile's last stage copies nothing from the stage `build`")
    return place, {**settings, "Env": [f"{key}={value}" for key, value in environment.items()]}


def _last_stage(text: str) -> list[tuple[str, str]]:
    lines = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    instructions = [
        (word.upper(), rest.strip())
        for line in lines
        if line.strip()
        for word, _, rest in [line.partition(" ")]
    ]
    last = max(number for number, (word, _) in enumerate(instructions) if word == "FROM")
    return instructions[last + 1 :]
