"""Fetch ahead in a thread, so that gathering the next batch costs the update nothing."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


class _Failure:
    """An exception on its way from the thread to who waits for an item."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


_END = object()


def prefetch(items: Iterable[T], *, together: int = 1) -> Generator[T, None, None]:
    """Yield ``items`` in order, taken ahead of need in a thread and handed over ``together`` at a time.

    A handoff costs both threads more than gathering a small batch does. At most three lots are held in memory. An
    exception raised by ``items`` is raised here in its turn. Closing this generator ends the thread.
    """
    ready: queue.Queue[object] = queue.Queue(maxsize=1)
    closed = threading.Event()

    def fill() -> None:
        try:
            source = iter(items)
            while lot := tuple(islice(source, together)):
                ready.put(lot)
                if closed.is_set():
                    return
            ready.put(_END)
        except BaseException as error:  # whatever it is, the consumer must see it
            ready.put(_Failure(error))

    thread = threading.Thread(target=fill, name="prefetch", daemon=True)
    thread.start()
    try:
        while (lot := ready.get()) is not _END:
            if isinstance(lot, _Failure):
                raise lot.error
            yield from lot  # type: ignore[misc]
    finally:
        closed.set()
        while thread.is_alive():  # it may be waiting for room
            with suppress(queue.Empty):
                ready.get_nowait()
            thread.join(timeout=0.001)
