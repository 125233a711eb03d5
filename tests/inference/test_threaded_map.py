"""Work in threads: in order, within bounds, and nothing swallowed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from instancefcn.inference.threaded_map import MAX_PIXELS_UNDER_WAY, threaded_map


@pytest.mark.parametrize("ahead", [0, 1, 3, 50])
def test_results_keep_their_order(ahead: int) -> None:
    def slow_when_even(number: int) -> int:
        time.sleep(0.004 * (number % 2 == 0))
        return number * number

    assert list(threaded_map(slow_when_even, range(20), ahead)) == [n * n for n in range(20)]


def test_calls_overlap_with_the_drawing_of_items() -> None:
    """Each call waits until the next item is drawn: alone, this would never end."""
    drawn = [threading.Event() for _ in range(6)]

    def items() -> Iterator[int]:
        for number in range(6):
            drawn[number].set()
            yield number

    def call(number: int) -> bool:
        return number == 5 or drawn[number + 1].wait(5)

    assert all(threaded_map(call, items(), ahead=2))


@pytest.mark.parametrize("ahead", [1, 4])
def test_no_more_than_so_many_are_under_way(ahead: int) -> None:
    begun, most = 0, 0

    def items() -> Iterator[int]:
        nonlocal begun
        for number in range(20):
            begun += 1
            yield number

    for done, _ in enumerate(threaded_map(lambda n: time.sleep(0.001), items(), ahead)):
        most = max(most, begun - done)
    assert most <= ahead + 2


def test_large_images_are_under_way_alone() -> None:
    """Sizes in units of MAX_PIXELS_UNDER_WAY / 4: no two of 3 together, at most five of 0 and 1."""
    sizes = [1, 0, 3, 3, 1, 9, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    under_way: set[int] = set()
    most: list[int] = []
    lock = threading.Lock()

    def call(number: int) -> int:
        with lock:
            under_way.add(number)
            most.append(sum(sizes[one] for one in under_way))
        time.sleep(0.002)
        with lock:
            under_way.remove(number)
        return number

    results = threaded_map(call, range(len(sizes)), 4, pixels=lambda n: sizes[n] * MAX_PIXELS_UNDER_WAY // 4)
    assert list(results) == list(range(len(sizes)))
    assert max(most) == 9
    assert all(total <= 4 or total == 9 for total in most)


def test_with_none_ahead_only_what_is_asked_for_is_drawn() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise AssertionError("drawn too far")

    assert next(threaded_map(lambda n: n, items(), 0)) == 1


def test_an_error_comes_when_its_turn_does_and_stops_the_rest() -> None:
    called = []

    def call(number: int) -> int:
        called.append(number)
        if number == 2:
            raise OSError("no room")
        return number

    results = threaded_map(call, range(1000), ahead=2, threads=1)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(OSError, match="no room"):
        next(results)
    assert len(called) < 10


def test_an_interrupt_waits_for_what_has_begun() -> None:
    finished = []

    def call(number: int) -> int:
        time.sleep(0.02)
        finished.append(number)
        return number

    def items() -> Iterator[int]:
        yield 0
        time.sleep(0.005)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(threaded_map(call, items(), ahead=4))
    assert finished == [0]


def test_one_thread_keeps_the_calls_in_order() -> None:
    order: list[int] = []
    list(threaded_map(order.append, range(50), ahead=8, threads=1))
    assert order == list(range(50))
