"""A contact sheet: a few images of each class beside its name, so that a person sees whether the two agree."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax import saxutils

import numpy as np
from numpy.typing import NDArray

from paceline.inert import inert

ROWS = 20  # classes in one column, unless that made the sheet much wider than high
_TILE = 64  # pixels: the least side of a shown image
_GAP = 4
_MARGIN = 28
_HEADER = 74
_ROW_GAP = 10
_COLUMN_GAP = 36
_MAX_NAME = 26  # characters
_CHARACTER = 0.56  # mean width of a character, of the font's size
_FONT = "font-family='DejaVu Sans, Helvetica, Arial, sans-serif'"


@dataclass(frozen=True, kw_only=True)
class ClassSample:
    """One row: ``images`` uint8 of shape (n, C, S, S), the ``name`` of their class, and a ``note`` below it."""

    name: str
    note: str
    images: NDArray[np.uint8]


def contact_sheet_png(title: str, subtitle: str, samples: Sequence[ClassSample]) -> bytes:
    """Draw ``samples`` under ``title`` as a PNG; all images have one shape (C, S, S), C being 1 or 3."""
    import vl_convert

    scale = 1.0 if len(samples) > 3 * ROWS else 2.0
    png: bytes = vl_convert.svg_to_png(contact_sheet_svg(title, subtitle, samples), scale=scale)
    return png


def contact_sheet_svg(title: str, subtitle: str, samples: Sequence[ClassSample]) -> str:
    """Draw ``samples`` under ``title`` as an SVG with the images inside."""
    strips = [_strip(sample.images) for sample in samples]
    strip_width = max(strip.shape[1] for strip in strips)
    row_height = strips[0].shape[0] + _ROW_GAP
    label_width = max(map(_label_width, samples))
    column_width = label_width + strip_width + _COLUMN_GAP
    rows = min(len(samples), max(ROWS, math.ceil(math.sqrt(len(samples) * column_width / row_height))))
    columns = math.ceil(len(samples) / rows)
    rows = math.ceil(len(samples) / columns)  # columns of nearly one length
    width = 2 * _MARGIN + max(columns * column_width - _COLUMN_GAP, 420)
    height = _MARGIN + _HEADER + rows * row_height - _ROW_GAP + _MARGIN
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' viewBox='0 0 {width} {height}'>",
        f"<rect width='{width}' height='{height}' fill='#ffffff'/>",
        f"<text x='{_MARGIN}' y='{_MARGIN + 22}' {_FONT} font-size='22' font-weight='bold' fill='#1a1a1a'>"
        f"{_escaped(title)}</text>",
        f"<text x='{_MARGIN}' y='{_MARGIN + 44}' {_FONT} font-size='13' fill='#6b6b6b'>{_escaped(subtitle)}</text>",
    ]
    for position, (sample, strip) in enumerate(zip(samples, strips, strict=True)):
        left = _MARGIN + position // rows * column_width
        top = _MARGIN + _HEADER + position % rows * row_height
        parts += _row(sample, strip, left, top, label_width)
    return "\n".join([*parts, "</svg>"])


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode ``pixels``, uint8 of shape (H, W, C) with C = 1 (gray) or 3 (RGB), as a PNG.

    Source: W3C, Portable Network Graphics, third edition, sections 5.3 and 11.2.1.
    """
    height, width, channels = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    filtered = np.zeros((height, 1 + width * channels), dtype=np.uint8)  # each line begins with its filter: 0, none
    filtered[:, 1:] = pixels.reshape(height, -1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _row(sample: ClassSample, strip: NDArray[np.uint8], left: int, top: int, label_width: int) -> list[str]:
    height, width, _ = strip.shape
    middle = top + height // 2
    data = base64.b64encode(encode_png(strip)).decode()
    return [
        f"<text x='{left}' y='{middle - 2}' {_FONT} font-size='14' fill='#1a1a1a'>"
        f"{_escaped(_shortened(sample.name))}</text>",
        f"<text x='{left}' y='{middle + 16}' {_FONT} font-size='11' fill='#8a8a8a'>{_escaped(sample.note)}</text>",
        f"<image x='{left + label_width}' y='{top}' width='{width}' height='{height}' "
        f"image-rendering='optimizeSpeed' href='data:image/png;base64,{data}'/>",
    ]


def _label_width(sample: ClassSample) -> int:
    return 24 + math.ceil(_CHARACTER * max(14 * len(_shortened(sample.name)), 11 * len(sample.note)))


def _strip(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Set images side by side on white, enlarged by whole pixels: shape (H, W, C)."""
    factor = max(1, _TILE // images.shape[-1])
    tiles = images.repeat(factor, axis=2).repeat(factor, axis=3).transpose(0, 2, 3, 1)
    num_tiles, side, _, channels = tiles.shape
    strip = np.full((side, num_tiles * (side + _GAP) - _GAP, channels), 255, dtype=np.uint8)
    for position, tile in enumerate(tiles):
        left = position * (side + _GAP)
        strip[:, left : left + side] = tile
    return strip


def _escaped(text: str) -> str:
    return saxutils.escape(inert(text))


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1].rstrip() + "…"
