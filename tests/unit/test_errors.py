"""The tree of errors: what the docstring draws is what the classes are."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from edgeface import errors


def test_the_drawn_tree_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^(\s{4}(?:\|   |    )*)(?:[|`]-- )?(\w+Error)\b", line)
        if found is None:
            continue
        depth = found.start(2)
        while above and above[-1][0] >= depth:
            above.pop()
        drawn[found.group(2)] = above[-1][1] if above else "Exception"
        above.append((depth, found.group(2)))
    real = {
        name: value.__bases__[0].__name__
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert drawn == real


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.InputError, ValueError),
        (errors.MissingDependencyError, ImportError),
        (errors.PersonNotFoundError, KeyError),
    ],
)
def test_callers_who_know_only_builtin_errors_catch_them(kind: type[Exception], builtin: type[Exception]) -> None:
    with pytest.raises(builtin, match="said so"):
        raise kind("said so")
    assert issubclass(kind, errors.EdgefaceError)


def test_a_message_is_printed_as_it_was_written() -> None:
    # KeyError prints the repr of its argument, quotes and all.
    assert str(errors.PersonNotFoundError("nobody is named 'ada'")) == "nobody is named 'ada'"
    assert str(errors.PersonNotFoundError()) == ""


def test_a_refused_photograph_has_a_reason() -> None:
    error = errors.EnrolmentError("photograph 1: expected one face, got none", reason="no_face")
    assert error.reason == "no_face"
    assert str(error) == "photograph 1: expected one face, got none"


EVERY = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_errors_pass_between_processes(kind: type[Exception]) -> None:
    given = {"reason": "too_small", "value": 20.0, "limit": 50.0} if kind is errors.EnrolmentError else {}
    error = kind("said so", **given)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301  # our own bytes
        assert type(again) is kind
        assert str(again) == "said so"
        assert vars(again) == given
