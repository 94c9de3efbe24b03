"""JSON and TOML files, which others may have written: of a plain maximum in size, in depth and in numbers.

What is within these can be checked, shown and written again without a surprise: no text that cannot be encoded, no
integer beyond 64 bits, nothing so deep that looking into it ends the interpreter.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

MOST_JSON_BYTES = 64 * 2**20  # a job of 100,000 trials has 10
MOST_TEXT_BYTES = 2**20  # of a study, a cluster, a list of names
_MOST_LEVELS = 40
_MOST_INTEGER = 2**63


def read_bounded(path: Path, most_bytes: int) -> bytes:
    """The content of a file that is no larger than ``most_bytes``.

    Raises: OSError; ValueError if it is larger, before memory is taken for it.
    """
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes / 2**20:g} MiB, and no such file of paceline's is")
    return content


def json_file(path: Path) -> Any:  # noqa: ANN401
    """What a JSON file holds.

    Raises: OSError; ValueError if it is none, or beyond a maximum.
    """
    try:
        return _within_bounds(json.loads(read_bounded(path, MOST_JSON_BYTES)))
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None


def text_file(path: Path) -> str:
    """What a text file in UTF-8 holds.

    Raises: OSError; ValueError if it is none, or beyond the maximum.
    """
    return read_bounded(path, MOST_TEXT_BYTES).decode("utf-8")


def toml(text: str) -> dict[str, Any]:
    """What TOML says.

    Raises: ValueError if it is none, or beyond a maximum.
    """
    try:
        settings: dict[str, Any] = _within_bounds(tomllib.loads(text))
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    return settings


_TOO_DEEP = f"it is nested more than {_MOST_LEVELS} levels deep"


def _within_bounds(value: Any) -> Any:  # noqa: ANN401
    """The same; level by level, for what is too deep would end a function that calls itself."""
    level = [value]
    for _ in range(_MOST_LEVELS):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.keys()
                inner += item.values()
            elif isinstance(item, list):
                inner += item
            elif isinstance(item, str):
                _refuse_unencodable(item)
            elif isinstance(item, int) and not -_MOST_INTEGER <= item < _MOST_INTEGER:
                raise ValueError("it has an integer beyond 64 bits")
        if not inner:
            return value
        level = inner
    raise ValueError(_TOO_DEEP)


def _refuse_unencodable(text: str) -> None:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("it has text that is no Unicode: half of a surrogate pair")
