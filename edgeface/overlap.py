"""Two steps over a stream of items, the first step of the next item beside the second step of this one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V")


def overlapped(items: Iterable[T], first: Callable[[T], U], second: Callable[[T, U], V]) -> Iterator[V]:
    """Yield ``second(item, first(item))`` in order.

    `items` and `first` run in a thread of their own, at most one item ahead; `second` in the caller's. An item's value
    never waits for the next item. What any of the three raises comes out in its turn and ends the iteration.
    """
    source = iter(items)

    def prepare() -> tuple[T, U] | None:
        for item in source:
            return item, first(item)
        return None

    with ThreadPoolExecutor(1, thread_name_prefix="edgeface-ahead") as helper:
        coming = helper.submit(prepare)
        while (ready := coming.result()) is not None:
            coming = helper.submit(prepare)
            yield second(*ready)
