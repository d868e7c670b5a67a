"""Numbers from outside: what is taken, what is refused, and what the message says."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeface.errors import InputError
from edgeface.numbers import real, whole
from edgeface.video.liveness import LivenessOptions
from edgeface.video.people import DecisionOptions
from edgeface.video.sources import IterableSource

if TYPE_CHECKING:
    from collections.abc import Callable

NOT_NUMBERS = ["0.5", b"1", None, True, False, [1], np.ones(2), 1j, float("nan"), float("inf"), -float("inf"), 10**400]


@pytest.mark.parametrize("value", [*NOT_NUMBERS, 0, -1, 257, 1.0, 1.5, np.float32(3)], ids=repr)
def test_what_is_no_whole_number_in_range_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"^threads: expected a whole number from 1 to 256, got "):
        whole(value, "threads", 1, 256)


@pytest.mark.parametrize("value", [1, 256, np.int8(7), np.uint64(9)], ids=repr)
def test_numpy_s_whole_numbers_are_taken(value: Any) -> None:
    taken = whole(value, "threads", 1, 256)
    assert type(taken) is int
    assert taken == value


@pytest.mark.parametrize("value", [*NOT_NUMBERS, 0, 1, -0.1, np.float64(1), Decimal("0.5")], ids=repr)
def test_what_is_no_number_in_range_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"^fmr: expected a rate between 0 and 1, got "):
        real(value, "fmr", "a rate between 0 and 1", above=0.0, below=1.0)


@pytest.mark.parametrize("value", [-1, 2, 0, np.float32(0.25), Fraction(1, 3), np.int16(1)], ids=repr)
def test_bounds_that_belong_to_the_range_and_numpy_s_numbers_are_taken(value: Any) -> None:
    taken = real(value, "margin", "a number from -1 to 2", least=-1.0, most=2.0)
    assert type(taken) is float
    assert taken == pytest.approx(float(value))


def test_a_message_stays_short() -> None:
    with pytest.raises(InputError) as refused:
        whole("9" * 100_000, "workers", 1)
    assert len(str(refused.value)) < 200
    assert "expected a whole number of at least 1" in str(refused.value)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda given: LivenessOptions(interval_s=given), "LivenessOptions.interval_s"),
        (lambda given: DecisionOptions(min_quality=given), "DecisionOptions.min_quality"),
        (lambda given: IterableSource([], fps=given), "fps"),
    ],
)
@pytest.mark.parametrize("given", ["2", None, float("nan"), True])
def test_options_refuse_text_as_they_refuse_a_wrong_number(
    make: Callable[[Any], object], named: str, given: object
) -> None:
    with pytest.raises(InputError, match=rf"^{named}: expected .+, got "):
        make(given)
