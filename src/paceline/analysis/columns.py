"""Many records of one kind, kept as columns: an array a field, so that millions of them fit into memory.

A record object takes some 3,000 bytes, its numbers some 200. Iterating makes the objects anew, which takes time: what
looks at every record of a large run had better ask for a column.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from paceline.records import Record

R = TypeVar("R", bound=Record)

_DTYPES: dict[Any, type[np.generic]] = {float: np.float64, int: np.int64, bool: np.bool_}


class Columns(Sequence[R]):
    """A sequence of records of one kind, in order, held as arrays: what is read from it equals what was put in.

    Args:
        rows: for each record its fields, in the order of ``kind``.
    """

    def __init__(self, kind: type[R], rows: Sequence[Sequence[Any]] = ()) -> None:
        fields: Iterable[Sequence[Any]] = zip(*rows, strict=True) if rows else [()] * len(kind.model_fields)
        self.kind = kind
        self._length = len(rows)
        self._columns = {
            name: _column(field.annotation, values)
            for (name, field), values in zip(kind.model_fields.items(), fields, strict=True)
        }

    def column(self, field: str, key: str | None = None) -> NDArray[Any]:
        """One field of all records, shape (len(self),): float64, int64 or bool; objects if it is text or may be None.

        Args:
            key: of a field of scores, such as ``validation``: which score; NaN in a record that lacks it.
        Raises: KeyError if records of this kind have no such field; ValueError if scores are asked for without a key.
        """
        column = self._columns[field]
        if isinstance(column, _Scores):
            if key is None:
                raise ValueError(f"{field} holds several scores in each record: give one of {', '.join(column.keys)}")
            return column.of(key)
        if key is None:
            return column
        return np.array([scores.get(key, np.nan) for scores in column], dtype=np.float64)

    def names(self, field: str) -> list[str]:
        """The names of the scores that a field such as ``validation`` holds in any record."""
        column = self._columns[field]
        return list(column.keys if isinstance(column, _Scores) else dict.fromkeys(itertools.chain(*column)))

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> Columns[R]: ...
    def __getitem__(self, index: int | slice) -> R | Columns[R]:
        if isinstance(index, slice):
            part = copy.copy(self)
            part._length = len(range(self._length)[index])
            part._columns = {name: column[index] for name, column in self._columns.items()}
            return part
        number = range(self._length)[index]
        return self.kind.model_validate({name: column.item(number) for name, column in self._columns.items()})

    def __iter__(self) -> Iterator[R]:
        for values in zip(*(column.tolist() for column in self._columns.values()), strict=True):
            yield self.kind.model_validate(dict(zip(self._columns, values, strict=True)))


class _Scores:
    """A field of scores that have the same names in every record; ``values`` has shape (records, names)."""

    def __init__(self, keys: tuple[str, ...], values: NDArray[np.float64]) -> None:
        self.keys = keys
        self._values = values

    def of(self, key: str) -> NDArray[np.float64]:
        if key in self.keys:
            return self._values[:, self.keys.index(key)]
        return np.full(len(self._values), np.nan)

    def __getitem__(self, index: slice) -> _Scores:
        return _Scores(self.keys, self._values[index])

    def item(self, number: int) -> dict[str, float]:
        return dict(zip(self.keys, self._values[number].tolist(), strict=True))

    def tolist(self) -> list[dict[str, float]]:
        return [dict(zip(self.keys, row, strict=True)) for row in self._values.tolist()]


def _column(annotation: Any, values: Sequence[Any]) -> NDArray[Any] | _Scores:  # noqa: ANN401
    """One field of many records, in the smallest form that gives the same values back."""
    if annotation == dict[str, float]:
        keys = tuple(values[0]) if values else ()
        if all(tuple(scores) == keys for scores in values):
            numbers = itertools.chain.from_iterable(scores.values() for scores in values)
            shape = (len(values), len(keys))
            return _Scores(keys, np.fromiter(numbers, np.float64, math.prod(shape)).reshape(shape))
    return np.fromiter(values, _DTYPES.get(annotation, np.object_), len(values))


class Gathering(Generic[R]):
    """Records of one kind on their way into columns: their fields are taken out at once, so that none is kept.

    Keeping those of a file until its end takes a third longer, since each then needs memory that is not in a cache.
    """

    def __init__(self, kind: type[R]) -> None:
        self._kind = kind
        self._row_of = attrgetter(*kind.model_fields)
        self._rows: list[tuple[Any, ...]] = []

    def add(self, record: R) -> None:
        """Take the next record."""
        self._rows.append(self._row_of(record))

    def drop_after(self, num_updates: int) -> None:
        """Forget the records of later updates."""
        position = list(self._kind.model_fields).index("num_updates")
        self._rows = [row for row in self._rows if row[position] <= num_updates]

    def columns(self) -> Columns[R]:
        """The records so far."""
        return Columns(self._kind, self._rows)
