"""How the stand-ins punish: `Misuse` for faults of edgeface's code, `Error` as the driver's own failures."""

from __future__ import annotations

import functools
from typing import Any


class Misuse(AssertionError):  # noqa: N818 - no error of the program's, a fault of its author's
    """The code under test did what a real driver would punish."""


class Error(Exception):
    """Stands for `pycuda.driver.Error`."""


def native(function: Any) -> Any:
    """Lets failures come out as from a C function: without frames whose locals keep the arguments alive."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except Error as error:
            why = error.args
        del args, options
        raise Error(*why)

    return call
