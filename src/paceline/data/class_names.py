"""Names for ImageNet's published labels: the label trap.

Published labels follow ``map_clsloc.txt`` (1 = n02119789 kit fox); the names of ``imagenet1000_clsidx_to_labels.txt``
follow the sorted WordNet ids (0 = n01440764 tench). The way from one to the other is the WordNet id;
``names[label - 1]`` is wrong for every class. Names are no keys: 'crane' occurs twice.
"""

from __future__ import annotations

import ast
from pathlib import Path

from paceline.errors import DataError

MAP_FILE = "map_clsloc.txt"
NAMES_FILE = "imagenet1000_clsidx_to_labels.txt"


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
        if len(fields) < 2 or not fields[1].isdecimal():
            raise DataError(f"{path}, line {number}: '{line}': 'WNID LABEL NAME' is expected")
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
    try:
        names = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise DataError(f"{path}: no Python dict of names: {error}") from error
    if not isinstance(names, dict) or not all(isinstance(k, int) and isinstance(v, str) for k, v in names.items()):
        raise DataError(f"{path}: a dict from numbers to names is expected, like {{0: 'tench', 1: 'goldfish'}}")
    return names


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from error
