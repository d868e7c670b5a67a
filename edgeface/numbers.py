"""Numbers that a caller gives: of the right kind and in range, or an InputError that says what was expected."""

from __future__ import annotations

import reprlib
import sys
from math import inf
from numbers import Integral, Real

from edgeface.errors import InputError


def whole(value: object, name: str, least: int, most: int = sys.maxsize) -> int:
    """A whole number, numpy's too, from `least` to `most`; True and False are refused. Raises InputError."""
    if isinstance(value, Integral) and not isinstance(value, bool) and least <= int(value) <= most:
        return int(value)
    span = f"of at least {least}" if most == sys.maxsize else f"from {least} to {most}"
    raise InputError(f"{name}: expected a whole number {span}, got {reprlib.repr(value)}")


def real(
    value: object,
    name: str,
    expected: str,
    *,
    least: float = -inf,
    above: float = -inf,
    most: float = inf,
    below: float = inf,
) -> float:
    """A finite number, numpy's too, in range: `least` and `most` belong to it, `above` and `below` do not.

    NaN, True and False are refused. Raises InputError with the words of `expected`, such as "a rate between 0 and 1".
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            given = float(value)
        except OverflowError:  # a whole number beyond every float
            given = inf
        if least <= given <= most and above < given < below:
            return given
    raise InputError(f"{name}: expected {expected}, got {reprlib.repr(value)}")
