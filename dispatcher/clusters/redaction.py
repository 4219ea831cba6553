"""Texts of others (a server's message, an error) before they go into a log, a condition or an Event."""

import re
from typing import Final

_SECRETS: Final = (
    (re.compile(r"eyJ[\w-]{10,}\.[\w-]+\.[\w-]*"), "[token]"),
    (re.compile(r"(?i)\b(bearer|basic)(?:\s|%20|\+)+[\w+/=.~%-]{8,}"), r"\1 [token]"),
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL),
        "[key]",
    ),
    (re.compile(r"LS0tLS1CRUdJTi[\w+/=]{20,}"), "[PEM]"),
)
"""JSON web tokens, Authorization headers, private keys, base64 of PEM texts."""

_SHORTEST: Final = 8
"""Characters of a credential that is looked for as it is: a shorter one would be found in ordinary words."""
_PIECE: Final = 16
"""Characters of a longer credential that give it away: an answer may quote a part of it."""


def redacted(text: str) -> str:
    """The text without anything that looks like credentials."""
    for pattern, stand_in in _SECRETS:
        text = pattern.sub(stand_in, text)
    return text


def without(text: str, secret: str) -> str:
    """The text without this very credential, whole or in pieces of 16 characters or more."""
    if len(secret) < _SHORTEST or not text:
        return text
    text = text.replace(secret, "[token]")
    if len(secret) < 2 * _PIECE:
        return text
    # Every piece of at least twice that length holds one of these whole.
    for start in range(0, len(secret) - _PIECE + 1, _PIECE):
        piece = secret[start : start + _PIECE]
        while (at := text.find(piece)) >= 0:
            first, last = _grown(text, secret, at, start)
            text = f"{text[:first]}[token]{text[last:]}"
    return text


def printable(text: str) -> str:
    """One line without control characters: a terminal that shows it must not be steered by a server."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _grown(text: str, secret: str, at: int, start: int) -> tuple[int, int]:
    """From where to where the text agrees with the secret around a piece that was found."""
    first, last, left, right = at, at + _PIECE, start, start + _PIECE
    while first and left and text[first - 1] == secret[left - 1]:
        first, left = first - 1, left - 1
    while last < len(text) and right < len(secret) and text[last] == secret[right]:
        last, right = last + 1, right + 1
    return first, last
