"""JSON read the way Go's ``encoding/json`` fills a struct: what Kubernetes does with such text.

Python's own mapping loses what Go looks at: how a number was written (``1.0`` is no integer), and
every member of an object, in order, when names are equal but for their case.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NoReturn

MAX_INT64: Final = 2**63 - 1
_SHOWN: Final = 40
"""How much of a wrong value a message repeats, in characters."""


class JsonError(ValueError):
    """Text that is not JSON, or a value of a wrong type; the message says what is wrong and where."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it was written."""

    text: str


@dataclass(frozen=True, slots=True)
class Object:
    """An object's members in the order of the text; a name may come twice."""

    members: tuple[tuple[str, "Value"], ...]


Value = None | bool | str | Number | Object | list["Value"]


def parse(text: str) -> Value:
    """Read one JSON value.

    Raises:
        JsonError: malformed JSON, text after the value, or nesting that is too deep.
    """
    try:
        value: Value = json.loads(
            text,
            object_pairs_hook=lambda members: Object(
                tuple((_whole_characters(name), value) for name, value in members)
            ),
            parse_int=Number,
            parse_float=Number,
            parse_constant=_refuse_constant,
        )
    except json.JSONDecodeError as error:
        raise JsonError(f"malformed JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise JsonError("malformed JSON: nested too deeply") from None
    return value


def members(value: Value, where: str) -> Iterator[tuple[str, Value]]:
    """The members of an object; none for null, as Go leaves a struct or map empty then."""
    if value is None:
        return iter(())
    if not isinstance(value, Object):
        raise wrong_type(value, where, "an object")
    return iter(value.members)


def integer(value: Value, where: str) -> int:
    """A non-negative integer of at most 64 bits with sign; Go itself would take negative ones."""
    if not isinstance(value, Number) or not value.text.lstrip("-").isdigit():
        raise wrong_type(value, where, "an integer")
    # The length is looked at first: Python refuses to read thousands of digits.
    if len(value.text) > len(str(-MAX_INT64)) or int(value.text) > MAX_INT64:
        raise JsonError(f"{where}: {_shown(value)} is out of range, the largest is {MAX_INT64}")
    if int(value.text) < 0:
        raise JsonError(f"{where}: must not be negative, but is {value.text}")
    return int(value.text)


def boolean(value: Value, where: str) -> bool:
    if not isinstance(value, bool):
        raise wrong_type(value, where, "true or false")
    return value


def string(value: Value, where: str) -> str:
    if not isinstance(value, str):
        raise wrong_type(value, where, "a string")
    return _whole_characters(value)


def array(value: Value, where: str) -> list[Value]:
    if not isinstance(value, list):
        raise wrong_type(value, where, "an array")
    return value


def folded(name: str) -> str:
    """The name as Go compares it with a struct's fields: without regard to case."""
    # lower() keeps the long s, which Go folds to s.
    return name.lower().replace("ſ", "s")


def member(where: str, name: str) -> str:
    """The path of a member, for messages. Unprintable characters in a name are escaped."""
    shown = ascii(name)[1:-1]
    return f"{where}.{shown}" if where else shown


def wrong_type(value: Value, where: str, wanted: str) -> JsonError:
    return JsonError(f"{where or 'the whole text'}: must be {wanted}, not {_shown(value)}")


def _shown(value: Value) -> str:
    match value:
        case Number():
            text = value.text
        case str():
            text = json.dumps(value)
        case Object():
            return "an object"
        case list():
            return "an array"
        case _:
            return json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _whole_characters(text: str) -> str:
    r"""The text with U+FFFD, as in Go, for half a surrogate pair (``"\ud800"``), which cannot be encoded."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"malformed JSON: {name} is not a JSON value")
