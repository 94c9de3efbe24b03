"""This program's own code: a digest that tells whether a host has the same, and a wheel of it for one that has not.

This file is sent to hosts as it stands, hence the standard library alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path

PACKAGE = "paceline"
WHEEL = "Wheel-Version: 1.0\nGenerator: paceline\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def installed() -> Path | None:
    """The folder of the package that this interpreter would import; None if it has none."""
    spec = importlib.util.find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(places))) if places else None


def files_of(folder: Path) -> list[Path]:
    """What belongs to the package, in order: all but compiled files."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def digest(folder: Path) -> str:
    """Of names and contents of all files of the package."""
    hashed = hashlib.sha256()
    for path in files_of(folder):
        name, content = path.relative_to(folder).as_posix().encode(), path.read_bytes()
        hashed.update(b"%d %d " % (len(name), len(content)) + name + content)
    return hashed.hexdigest()


def write_wheel(into: Path) -> Path:
    """Write a wheel of the package as it is here; its name holds the digest."""
    folder = installed()
    assert folder is not None
    found = distribution(PACKAGE)
    info = f"{PACKAGE}-{found.version}.dist-info"
    path = into / f"{PACKAGE}-{found.version}+{digest(folder)[:12]}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for file in files_of(folder):
            wheel.write(file, f"{PACKAGE}/{file.relative_to(folder).as_posix()}")
        for name in ("METADATA", "entry_points.txt"):
            wheel.writestr(f"{info}/{name}", found.read_text(name) or "")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: paceline\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
    return path


if __name__ == "__main__":
    place = installed()
    sys.stdout.write(digest(place) if place is not None else "")
