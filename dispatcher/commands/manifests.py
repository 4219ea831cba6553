"""Files of manifests: YAML or JSON, one or many documents, Lists taken apart."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click

from dispatcher.commands.refusals import Manifest, WrongInput

_SUFFIXES: Final = (".yaml", ".yml", ".json")

files_option: Final = click.option(
    "-f",
    "--filename",
    "files",
    multiple=True,
    required=True,
    metavar="FILE",
    type=click.Path(allow_dash=True),
    help="YAML or JSON, a directory of such files, or - for standard input; may be given several times.",
)


def read_manifests(names: Sequence[str]) -> list[Manifest]:
    """The objects of files, of directories' files, and of standard input (``-``), in order.

    Raises:
        WrongInput: a file that is missing, no YAML, or holds something that is no object.
    """
    found = [manifest for name in names for manifest in _objects(name)]
    if not found:
        raise WrongInput(f"{', '.join(names)}: no objects")
    return found


def _objects(name: str) -> Iterator[Manifest]:
    if name == "-":
        yield from parse_manifests(sys.stdin.buffer.read(), "standard input")
        return
    path = Path(name)
    try:
        files = sorted(it for it in path.iterdir() if it.suffix in _SUFFIXES) if path.is_dir() else [path]
        for file in files:
            yield from parse_manifests(file.read_bytes(), str(file))
    except OSError as error:
        raise WrongInput(f"{error.filename or name}: {error.strerror}") from None


def parse_manifests(data: bytes, source: str) -> Iterator[Manifest]:
    """The objects of a text. Raises WrongInput."""
    import yaml

    try:
        documents = list(yaml.load_all(data, Loader=_loader()))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise WrongInput(f"{source}: {' '.join(str(error).split())}") from None
    for document in documents:
        if document is not None:
            yield from _taken_apart(document, source)


def _taken_apart(document: Any, source: str) -> Iterator[Manifest]:
    if not isinstance(document, dict):
        raise WrongInput(f"{source}: holds a {type(document).__name__}, not a Kubernetes object")
    for field in ("apiVersion", "kind"):
        if not isinstance(document.get(field), str):
            raise WrongInput(f"{source}: an object without {field}")
    if document["kind"].endswith("List") and isinstance(document.get("items"), list):
        for item in document["items"]:
            yield from _taken_apart(item, source)
        return
    metadata = document.setdefault("metadata", {})
    if not isinstance(metadata, dict) or not (metadata.get("name") or metadata.get("generateName")):
        raise WrongInput(f"{source}: a {document['kind']} without metadata.name")
    if metadata.get("annotations") is not None and not isinstance(metadata["annotations"], dict):
        raise WrongInput(f"{source}: {document['kind']} {metadata.get('name')}: annotations is no mapping")
    yield document


def _loader() -> Any:
    """A safe loader that leaves timestamps the texts that they are, as kubectl does."""
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
        for first, found in base.yaml_implicit_resolvers.items()
    }
    return type("Loader", (base,), {"yaml_implicit_resolvers": resolvers})
