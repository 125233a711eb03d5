"""Work in threads beside the network, in order and within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


MAX_PIXELS_UNDER_WAY = 64_000_000
"""Pixels of the pictures that may be under way at once; a larger picture is alone."""


def threaded_map(
    function: Callable[[In], Out],
    items: Iterable[In],
    ahead: int,
    threads: int = 4,
    pixels: Callable[[In], int] = lambda _: 0,
) -> Generator[Out, None, None]:
    """`map(function, items)` with the calls in threads: the results come in order, each as soon as it and all
    before it are done.

    `items` is drawn from in the caller's thread. So the same function serves both ends of a network: it reads
    files before their turn when `items` are paths, and writes results behind when `items` are results that
    the network makes as they are drawn.

    Args:
        ahead: items that may be under way beyond the one that is waited for: a bound on memory. 0 calls the
            function in the caller's thread, item by item.
        threads: 1 keeps the calls themselves in order, too.
        pixels: of an item's picture: no call is begun while those under way would be more than ROOM with it.

    Raises:
        what a call raised, when its turn comes. Calls that have not begun are then given up, those that have
        begun are waited for; so it is when the caller is interrupted or stops drawing (close the iterator).
    """
    if ahead < 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="instancefcn")
    pending: deque[tuple[Future[Out], int]] = deque()
    try:
        for item in items:
            size = pixels(item)
            while pending and sum(other for _, other in pending) + size > MAX_PIXELS_UNDER_WAY:
                yield pending.popleft()[0].result()
            pending.append((pool.submit(function, item), size))
            while pending and (len(pending) > ahead or pending[0][0].done()):
                yield pending.popleft()[0].result()
        while pending:
            yield pending.popleft()[0].result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
