"""Objects as kubectl prints them with -o json and -o yaml."""

import json
from collections.abc import Sequence
from typing import Any

from dispatcher.commands.refusals import Manifest


def document(items: Sequence[Manifest], *, api_version: str, kind: str, single: bool, form: str) -> str:
    """The objects as a List, or the only one as itself, without managedFields; ``form``: json or yaml."""
    shown = [presentable(item, api_version=api_version, kind=kind) for item in items]
    if single:
        return formatted(shown[0], form)
    empty = {"resourceVersion": ""}
    return formatted({"apiVersion": "v1", "kind": "List", "metadata": empty, "items": shown}, form)


def presentable(item: Manifest, *, api_version: str, kind: str) -> Manifest:
    """An object with its own kind, which items of lists do not name, and without managedFields."""
    metadata = {key: value for key, value in item["metadata"].items() if key != "managedFields"}
    return {"apiVersion": api_version, "kind": kind} | item | {"metadata": metadata}


def formatted(value: Any, form: str) -> str:
    """A value as indented JSON or as YAML, without a line break at the end."""
    if form == "json":
        return json.dumps(value, indent=4, ensure_ascii=False)
    import yaml

    text: str = yaml.dump(value, Dumper=_dumper(), sort_keys=False, allow_unicode=True)
    return text.rstrip("\n")


def _dumper() -> Any:
    """The C library's writer where there is one: seven times as fast."""
    import yaml

    return getattr(yaml, "CSafeDumper", yaml.SafeDumper)
