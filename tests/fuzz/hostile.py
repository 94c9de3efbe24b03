"""Strategies of hypothesis for what a hostile file may hold: spoilt bytes, spoilt JSON, spoilt text."""

from __future__ import annotations

import copy
import json
import resource
from typing import Any

from hypothesis import strategies as st

ESCAPES = [
    "\x1b]8;;http://evil\x07here\x1b]8;;\x07",
    "\x1b[2J\x1b[31m",
    "a\rb",
    "\x00",
    "\u202egnp.exe",
    "[red]x[/red]",
    "[link=http://evil]x[/link]",
    "<img src=x onerror=window.owned=1>",
    "</script><script>window.owned=1</script>",
    "javascript:window.owned=1",
    "=cmd|' /C calc'!A0",
    "@SUM(1)",
    "{{ 7*7 }}",
    "$(touch owned)",
    "`touch owned`",
    "; touch owned",
]
PATHS = [
    "../../owned",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/../../b",
    "a\\..\\b",
    "~root/x",
    "~nobody-at-all/x",
    "x" * 5000,
]
NUMBERS = [-1, 0, 1, 2, 10**9, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63), 0.5, -1.5, 1e300, 1e-300]
ODD_NUMBERS = [float("nan"), float("inf"), float("-inf")]
NESTED: list[Any] = [[], {}, [[]], {"a": {"b": {}}}, [None] * 50, ["a", 1, None], {"": 0}, {"schema_version": 99}]


def peak_memory_mb() -> float:
    """The most that this process has ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def deep(levels: int, *, lists: bool = True) -> Any:
    made: Any = 1
    for _ in range(levels):
        made = [made] if lists else {"a": made}
    return made


VALUES = st.one_of(
    st.sampled_from([None, True, False, *NUMBERS, *ODD_NUMBERS, *ESCAPES, *PATHS, *NESTED, deep(45), deep(150)]),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything inside a document."""
    found = [path] if path else []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in children:
        found += places(item, (*path, key))
    return found


def spoilt(document: Any, most: int = 2) -> st.SearchStrategy[Any]:
    """A document of dicts and lists in which values are replaced, removed or added."""

    @st.composite
    def spoil(draw: Any) -> Any:
        made = copy.deepcopy(document)
        for _ in range(draw(st.integers(1, most))):
            known = places(made)
            if not known:
                return copy.deepcopy(draw(VALUES))
            *way, last = draw(st.sampled_from(known))
            holder = made
            for key in way:
                holder = holder[key]
            match draw(st.sampled_from(["replace", "replace", "replace", "remove", "add", "rename"])):
                case "replace":
                    holder[last] = copy.deepcopy(draw(VALUES))
                case "remove":
                    del holder[last]
                case "add" if isinstance(holder, dict):
                    holder[draw(st.sampled_from(ESCAPES + PATHS) | st.text(max_size=10))] = copy.deepcopy(draw(VALUES))
                case "add":
                    holder.insert(last, copy.deepcopy(draw(VALUES)))
                case "rename" if isinstance(holder, dict):
                    holder[draw(st.sampled_from(ESCAPES + PATHS) | st.text(max_size=10))] = holder.pop(last)
                case _:
                    holder.append(copy.deepcopy(holder[last]))
        return made

    return spoil()  # not of arguments, which hypothesis would write out


def as_json(value: Any) -> bytes:
    """JSON as a careless writer would write it: NaN, and halves of surrogate pairs, are let through."""
    return json.dumps(value).encode()


def spoilt_bytes(content: bytes, most: int = 4) -> st.SearchStrategy[bytes]:
    """Bytes that are changed, cut, repeated, or have others put in."""

    @st.composite
    def spoil(draw: Any) -> bytes:
        made = bytearray(content)
        for _ in range(draw(st.integers(1, most))):
            place = draw(st.integers(0, len(made)))
            match draw(st.sampled_from(["set", "set", "set", "cut", "insert", "repeat", "remove"])):
                case "set" if place < len(made):
                    made[place] = draw(st.integers(0, 255))
                case "cut":
                    del made[place:]
                case "insert":
                    made[place:place] = draw(st.binary(max_size=12))
                case "repeat":
                    made[place:place] = made[place : place + draw(st.integers(0, 64))]
                case "remove":
                    del made[place : place + draw(st.integers(0, 64))]
        return bytes(made)

    return spoil()  # not of arguments, which hypothesis would write out


def spoilt_text(text: str, most: int = 3) -> st.SearchStrategy[str]:
    """Text in which words are replaced, lines repeated or removed."""

    @st.composite
    def spoil(draw: Any) -> str:
        lines = text.split("\n")
        words = [*ESCAPES, *PATHS, *map(str, NUMBERS), '"', "'", "{", "}", "[", "]", "=", "#", "nan", "'''", "1" * 5000]
        for _ in range(draw(st.integers(1, most))):
            number = draw(st.integers(0, len(lines) - 1)) if lines else 0
            match draw(st.sampled_from(["insert", "insert", "word", "repeat", "remove", "nest"])):
                case "insert":
                    place = draw(st.integers(0, len(lines[number]) if lines else 0))
                    line = lines[number] if lines else ""
                    lines[number : number + 1] = [
                        line[:place] + draw(st.sampled_from(words) | st.text(max_size=8)) + line[place:]
                    ]
                case "word" if lines:
                    head, equals, _ = lines[number].partition("=")
                    value = draw(st.sampled_from(words) | VALUES.map(lambda value: json.dumps(value)[:3000]))
                    lines[number] = f"{head}{equals} {value}"
                case "repeat" if lines:
                    lines.insert(number, lines[number])
                case "remove" if lines:
                    del lines[number]
                case "nest":
                    depth = draw(st.sampled_from([50, 5000, 200_000]))
                    lines.append(f"x = {'[' * depth}" + "]" * depth)
        return "\n".join(lines)

    return spoil()  # not of arguments, which hypothesis would write out
