"""Colours and dashes: the same for a name in every figure, told apart by colour-blind readers, on white and on dark."""

from __future__ import annotations

from collections.abc import Sequence

# Okabe and Ito 2008 without black and yellow, which vanish on one of the two grounds; then Tol's "muted".
_OPTIMIZERS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"),
    *("#999933", "#AA4499", "#44AA99", "#CC6677", "#8877CC", "#888888"),
)
_DASHES: tuple[tuple[int, ...], ...] = ((1, 0), (7, 3), (2, 2), (10, 3, 2, 3), (4, 4), (12, 4), (1, 4))

# Tol 2021, "light": fills, so that no part of the time is taken for an optimizer.
PARTS = {
    "compute": "#77AADD",
    "communication": "#EE8866",
    "optimizer": "#44BB99",
    "data": "#EEDD88",
    "other": "#BBBBBB",
}


def colours(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each label, in the order given; they repeat after twelve."""
    return {label: _OPTIMIZERS[index % len(_OPTIMIZERS)] for index, label in enumerate(labels)}


def dashes(places: Sequence[str]) -> dict[str, list[int]]:
    """A dash for each place, in the order given, the first one solid; they repeat after seven."""
    return {place: list(_DASHES[index % len(_DASHES)]) for index, place in enumerate(places)}
