"""Work in threads beside the network, in order and within limits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


MAX_PIXELS_UNDER_WAY = 64_000_000
"""Pixels of all images that may be under way at once; a larger image is alone."""


def threaded_map(
    function: Callable[[In], Out],
    items: Iterable[In],
    ahead: int,
    threads: int = 4,
    pixels: Callable[[In], int] = lambda _: 0,
) -> Generator[Out, None, None]:
    """`map(function, items)` with the calls in threads: the results come in order, each as soon as it and all
    before it are done.

    `items` are drawn in the caller's thread, so the function serves both ends of a network: it reads files
    ahead when `items` are paths, and writes results behind when `items` are results that the network makes as
    they are drawn.

    Args:
        ahead: maximum number of items under way beyond the one that is waited for, which limits memory. 0
            calls the function in the caller's thread, item by item.
        threads: 1 also keeps the calls themselves in order.
        pixels: number of pixels of an item's image. A call waits while the images under way would exceed
            MAX_PIXELS_UNDER_WAY with it.

    Raises:
        what a call raised, at its turn. Calls that have not begun are cancelled and those that have begun are
        waited for; the same happens when the caller is interrupted or closes the iterator.
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
