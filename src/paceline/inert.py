"""Text that others wrote (in data files, records, logs, on hosts), so that showing it does nothing else.

A terminal obeys control characters: it moves the cursor over what was said, answers as if by the keyboard, makes a link
that leads elsewhere than it says. Marks of writing direction make a line read as another one. What a page of HTML or
Markdown, or JSON, obeys is escaped where these are written.
"""

from __future__ import annotations

import re
from typing import Any

# All control characters but the end of a line and the tabulator; separators of lines, marks of direction, what is
# invisible; halves of surrogate pairs, which cannot be encoded.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_BEGINS_FORMULA = re.compile(r"[=+\-@\t\r]")


def inert(text: str) -> str:
    """The text with a picture in place of each control character, ``␛`` for escape, and ``�`` for other harmful ones.

    Returns: as many characters as were given.
    """
    return _HARMFUL.sub(_picture, text)


def inert_inside(value: Any) -> Any:  # noqa: ANN401
    """The same lists and dicts with every text in them inert, keys too, so that they still fit each other."""
    match value:
        case str():
            return inert(value)
        case dict():
            return {inert_inside(key): inert_inside(item) for key, item in value.items()}
        case list() | tuple():
            return [inert_inside(item) for item in value]
    return value


def inert_cell(text: str) -> str:
    """The text for a cell of a table that a spreadsheet may open: what would be a formula has an apostrophe before it.

    Source: OWASP, "CSV Injection".
    """
    return f"'{text}" if _BEGINS_FORMULA.match(text) else text


def _picture(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"
