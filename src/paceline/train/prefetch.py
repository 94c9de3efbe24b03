"""Fetch ahead in a thread, so that gathering the next batch costs the update nothing."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class _Failure:
    """An exception on its way from the thread to who waits for an item."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


_END = object()


def prefetch(items: Iterable[T], *, depth: int = 2) -> Generator[T, None, None]:
    """Yield ``items`` in order, taking up to ``depth`` of them ahead of need, in a thread.

    An exception raised by ``items`` is raised here in its turn. Closing this generator ends the thread.
    """
    ready: queue.Queue[object] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def fill() -> None:
        try:
            for item in items:
                ready.put(item)
                if closed.is_set():
                    return
            ready.put(_END)
        except BaseException as error:  # whatever it is, the consumer must see it
            ready.put(_Failure(error))

    thread = threading.Thread(target=fill, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield item  # type: ignore[misc]
    finally:
        closed.set()
        while thread.is_alive():  # it may be waiting for room
            with suppress(queue.Empty):
                ready.get_nowait()
            thread.join(timeout=0.001)
