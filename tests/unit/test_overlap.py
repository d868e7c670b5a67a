"""Two steps overlapped: order, one item ahead and no more, no waiting for the next item, errors in their turn."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeface.errors import InputError
from edgeface.overlap import overlapped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeface import FaceRecognizer


def test_order_and_values() -> None:
    squares = overlapped(range(20), lambda n: n * n, lambda n, square: (n, square))
    assert list(squares) == [(n, n * n) for n in range(20)]
    assert list(overlapped([], lambda n: n, lambda n, _: n)) == []


def test_the_first_step_of_the_next_runs_beside_the_second_of_this() -> None:
    both = threading.Barrier(2, timeout=10)

    def first(number: int) -> int:
        if number > 0:
            both.wait()  # passes only while `second` of the item before waits, too
        return number

    def second(number: int, _: int) -> int:
        if number < 4:
            both.wait()
        return number

    assert list(overlapped(range(5), first, second)) == [0, 1, 2, 3, 4]


def test_a_value_does_not_wait_for_the_next_item() -> None:
    released = threading.Event()

    def camera() -> Iterator[int]:
        yield 1
        assert released.wait(10)
        yield 2

    values = overlapped(camera(), lambda n: n, lambda n, _: n)
    assert next(values) == 1  # the camera has not given its second frame
    released.set()
    assert list(values) == [2]


def test_at_most_one_item_ahead() -> None:
    taken: list[int] = []

    def camera() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    values = overlapped(camera(), lambda n: n, lambda n, _: n)
    next(values)
    time.sleep(0.05)
    assert len(taken) <= 2


@pytest.mark.parametrize("step", ["items", "first", "second"])
def test_errors_come_in_their_turn(step: str) -> None:
    def fail(at: str, number: int) -> int:
        if at == step and number == 2:
            raise InputError(at)
        return number

    items = (fail("items", number) for number in range(5))
    values = overlapped(items, lambda n: fail("first", n), lambda n, _: fail("second", n))
    assert [next(values), next(values)] == [0, 1]
    with pytest.raises(InputError, match=step):
        next(values)
    before = threading.active_count()
    assert list(values) == []
    assert threading.active_count() <= before


def test_the_recogniser_says_the_same(recognizer: FaceRecognizer, photos: dict[str, Any]) -> None:
    frames = [*photos.values(), np.zeros((64, 64, 3), np.uint8)]
    alone = [recognizer.recognize(frame) for frame in frames]
    stream = list(recognizer.recognize_each(frames))
    assert [len(found) for found in stream] == [len(found) for found in alone] == [1] * 6 + [0]
    for ours, theirs in zip(stream, alone, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.box, other.box)
    with pytest.raises(InputError):
        list(recognizer.recognize_each([frames[0], None]))
