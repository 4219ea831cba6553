"""The values of a chart as its ``values.yaml`` describes them: a comment above a key is about that key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

_KEY = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z][A-Za-z0-9]*):")
_COMMENT = re.compile(r"^ *# ?(?P<text>.*)$")


@dataclass(frozen=True, slots=True)
class Value:
    """One described key. ``path``: dotted, such as ``image.tag``; ``default``: as in values.yaml."""

    path: str
    default: Any
    description: str

    @property
    def default_text(self) -> str:
        """The default on one line."""
        return json.dumps(self.default, ensure_ascii=False)


def described(text: str) -> Iterator[Value]:
    """The described keys of a values.yaml, in its order; keys are indented by two spaces a level."""
    defaults = yaml.safe_load(text)
    comment: list[str] = []
    parents: list[str] = []
    for line in text.splitlines():
        if match := _COMMENT.match(line):
            comment.append(match["text"])
            continue
        if match := _KEY.match(line):
            parents = [*parents[: len(match["indent"]) // 2], match["key"]]
            if comment:
                yield Value(".".join(parents), _at(defaults, parents), " ".join(comment))
        comment = []


def undescribed(text: str) -> set[str]:
    """Paths of values that no comment is about, neither their own nor that of a key around them."""
    known = {value.path for value in described(text)}
    return {
        path
        for path in leaves(yaml.safe_load(text))
        if not any(path == it or path.startswith(f"{it}.") for it in known)
    }


def leaves(values: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of everything that is no mapping, or an empty one."""
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from leaves(value, f"{path}.{key}" if path else key)
    else:
        yield path


def _at(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values[key]
    return values
