"""Names for ImageNet's published labels: the label trap.

Published labels follow ``map_clsloc.txt`` (1 = n02119789 kit fox); the names of ``imagenet1000_clsidx_to_labels.txt``
follow the sorted WordNet ids (0 = n01440764 tench). The way from one to the other is the WordNet id;
``names[label - 1]`` is wrong for every class. Names are no keys: 'crane' occurs twice.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from paceline.errors import DataError
from paceline.textfiles import text_file

MAP_FILE = "map_clsloc.txt"
NAMES_FILE = "imagenet1000_clsidx_to_labels.txt"
# A Python dict of numbers and strings, entry by entry: nothing in it nests, so that no parser can be led astray.
_ENTRY = re.compile(r"""(?P<label>[0-9]{1,6})\s*:\s*(?P<name>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")""")
_ENTRIES = re.compile(rf"(?:{_ENTRY.pattern.replace('?P<label>', '?:').replace('?P<name>', '?:')}\s*(?:,\s*|$))*")


def published_names(source: Path) -> dict[int, str] | None:
    """Name each published label by the two files in ``source``; None if either is not there.

    Returns: label -> name, the first synonym only.
    Raises: DataError if a file is there and cannot be understood, or the two do not have the same number of classes.
    """
    map_path, names_path = source / MAP_FILE, source / NAMES_FILE
    if not (map_path.is_file() and names_path.is_file()):
        return None
    wnids = _read_map(map_path)
    names = _read_names(names_path)
    if sorted(names) != list(range(len(wnids))):
        raise DataError(
            f"{names_path}: {len(names)} names, numbered from {min(names, default=0)}, for the {len(wnids)} classes of "
            f"{map_path.name}: one for each of 0..{len(wnids) - 1} is expected"
        )
    position = {wnid: index for index, wnid in enumerate(sorted(wnids.values()))}
    return {label: names[position[wnid]].split(",")[0].strip() for label, wnid in wnids.items()}


def names_of(labels: list[int], names: dict[int, str] | None) -> list[str]:
    """Name each label; ``label 449`` where nothing better is known."""
    return [(names or {}).get(label) or f"label {label}" for label in labels]


def _read_map(path: Path) -> dict[int, str]:
    wnids: dict[int, str] = {}
    for number, line in enumerate(_text(path).splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) < 2 or not re.fullmatch("[0-9]{1,6}", fields[1]):
            raise DataError(f"{path}, line {number}: '{line[:100]}': 'WNID LABEL NAME' is expected")
        if int(fields[1]) in wnids:
            raise DataError(f"{path}, line {number}: label {fields[1]} occurs twice")
        wnids[int(fields[1])] = fields[0]
    if len(set(wnids.values())) != len(wnids):
        raise DataError(f"{path}: a WordNet id occurs twice")
    return wnids


def _read_names(path: Path) -> dict[int, str]:
    text = _text(path).strip()
    if "{" in text:  # perhaps with an assignment in front
        text = text[text.index("{") : text.rfind("}") + 1]
    else:
        head, equals, tail = text.partition("=")
        text = "{" + (tail if equals and head.strip().isidentifier() else text) + "}"
    inside = text.strip()[1:-1].strip()
    if not (text.startswith("{") and text.endswith("}") and _ENTRIES.fullmatch(inside)):
        raise DataError(f"{path}: no Python dict from numbers to names, like {{0: 'tench', 1: 'goldfish'}}")
    return {int(found["label"]): _unquoted(found["name"], path) for found in _ENTRY.finditer(inside)}


def _unquoted(name: str, path: Path) -> str:
    try:
        return str(ast.literal_eval(name))
    except (ValueError, SyntaxError) as error:
        raise DataError(f"{path}: {name[:60]}: no name in quotes: {error}") from error


def _text(path: Path) -> str:
    try:
        return text_file(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from error
