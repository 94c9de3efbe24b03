"""Whether a file of torch's can be loaded in no more memory than it has bytes, looked at before torch does.

``weights_only`` keeps code from being run, not memory from being filled: an archive may be packed a thousandfold, and
its pickle may ask for bytes, or a tensor, of any size without holding them.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path

_TAKE_A_SIZE = {"builtins bytearray", "__builtin__ bytearray", "torch Tensor"}  # torch would call them


def refuse_bomb(path: Path) -> None:
    """Refuse an archive that unpacks to more than it is.

    Raises: ValueError saying what is wrong; zipfile.BadZipFile if it is no archive.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
        if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("its archive is packed, and torch writes none that is")
        for entry in entries:
            if entry.filename.endswith("/data.pkl"):
                _refuse_sizes(archive.read(entry))


def _refuse_sizes(program: bytes) -> None:
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name in ("STACK_GLOBAL", "INST") or (opcode.name == "GLOBAL" and argument in _TAKE_A_SIZE):
            raise ValueError(f"its pickle names {argument or 'something by its stack'}, which no checkpoint does")
