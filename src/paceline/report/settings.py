"""A study written back as TOML, for people and for `paceline run`; and any settings as flat lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from paceline.study import Study

MAX_LINES = 400


class _Default(NamedTuple):
    """A hyperparameter that the study file did not give: as a key it would be given, and could not be tuned."""

    value: Any


def study_toml(study: Study) -> str:
    """The resolved study as a study file: every default filled in, those of hyperparameters as comments."""
    settings = study.model_dump(mode="json", exclude_none=True)
    settings["scales"] = [str(scale) for scale in study.scales]
    for entry in settings["optimizers"].values():
        given, values = entry.pop("given"), entry.pop("hyperparameters")
        entry.update({key: value if key in given else _Default(value) for key, value in values.items()})
    return "\n".join(_table(settings, ())).strip() + "\n"


def _table(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Plain keys first, then the tables below."""
    for key, value in table.items():
        if isinstance(value, _Default):
            yield f"# {_key(key)} = {_value(value.value)}"
        elif not isinstance(value, Mapping):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            inner = (*path, key)
            if any(not isinstance(item, Mapping) for item in value.values()):
                yield f"\n[{'.'.join(_key(part) for part in inner)}]"
            yield from _table(value, inner)


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    return key if bare else json.dumps(key, ensure_ascii=True)


def _value(value: Any) -> str:  # noqa: ANN401
    """A TOML value; TOML's strings, numbers and booleans are written as JSON's are."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(item) for item in value)}]"
    return json.dumps(value)


def flat(settings: Any, path: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401
    """Nested settings as (path, value) lines, in their order."""
    if isinstance(settings, Mapping) and settings:
        for key, value in settings.items():
            yield from flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, settings if isinstance(settings, str) else json.dumps(settings)
