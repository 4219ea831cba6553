"""The images that the Jobs of tests/jobs name, made of this machine's own bash, Perl and Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from hack.lab.kubelet import support
from hack.lab.kubelet.images import Image, add_busybox
from hack.lab.kubelet.layer import Layer
from hack.lab.kubelet.python import add_python, interpreter
from tests.e2e import redis

PERL = shutil.which("perl")
PLACES = "docker.io/library/"
COMMANDS = {
    **dict.fromkeys(
        ("bash:5", "bash:latest", "busybox:1.28", "busybox:latest", "perl:5.34.0", "python:3"), ""
    ),
    "job-wq-1:latest": redis.ONE,
    "job-wq-2:latest": redis.ALL,
}
"""What a container of each image runs, by itself."""

# That of Perl 5.36 fails from about 1,500 digits on ("Can't use an undefined value as an ARRAY reference").
BIGNUM = """\
package bignum;
use Math::BigFloat;
sub import { no strict 'refs'; *{caller() . '::bpi'} = sub { Math::BigFloat->bpi(@_) } }
1;
"""


def images() -> list[Image]:
    """All of them, with one layer."""
    layer = Layer()
    add_busybox(layer, support.programs().busybox)
    bash = shutil.which("bash")
    assert bash is not None
    layer.programs(Path(bash))
    add_python(layer)
    layer.link("/usr/local/bin/python3", str(interpreter()))
    if PERL is not None:
        _add_perl(layer, Path(PERL))
    content = layer.finish()
    environment = ["PATH=/usr/local/bin:/usr/bin:/bin"]
    return [
        Image(
            PLACES + name,
            content,
            {"Env": environment, "Cmd": ["/bin/sh", "-euc", script] if script else ["sh"]},
        )
        for name, script in COMMANDS.items()
    ]


def _add_perl(layer: Layer, program: Path) -> None:
    said = subprocess.run(
        [program, "-e", 'print join "\\n", @INC'], capture_output=True, text=True, check=True
    )
    places = [Path(line) for line in said.stdout.splitlines()]
    layer.programs(program)
    layer.write(f"{places[0]}/bignum.pm", BIGNUM.encode())
    for place in places:
        if place.is_dir():
            layer.tree(place.resolve(), at=str(place))
            layer.libraries(place.rglob("*.so"))
