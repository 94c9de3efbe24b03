"""The workload of the example that ships beside the package, which is no package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location(
    "next_character", Path(__file__).parents[2] / "examples" / "next_character.py"
)
assert _SPEC is not None and _SPEC.loader is not None
_example = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_example)
build = _example.build
