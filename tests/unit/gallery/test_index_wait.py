"""`Gallery.wait_for_index`: no graph is being built when it says so."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from edgeface.gallery import Gallery, index, snapshot
from edgeface.gallery.graphs import PackageGraph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt
    import pytest

FIRST = 2 * index.TAIL


def test_the_thread_that_follows_another_is_waited_for_too(
    path: Path, units: Callable[..., npt.NDArray[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that come while one thread writes its snapshot are the next thread's, which starts as that one ends."""
    writing, go_on, save = threading.Event(), threading.Event(), snapshot.save

    def held(*arguments: Any) -> bool:
        writing.set()
        return go_on.wait(60) and save(*arguments)

    monkeypatch.setattr(snapshot, "save", held)
    for module in (index, snapshot):
        monkeypatch.setattr(module, "graph_kind", lambda encoding: PackageGraph)
    rows = units(2 * FIRST, 32)
    with Gallery.open(path, model_id="m", dimension=32, exact_up_to=1000) as gallery:
        gallery.add("ada", rows[:FIRST])
        gallery.search(rows[0])
        assert writing.wait(60)
        gallery.add("bob", rows[FIRST:])
        gallery.search(rows[0])
        assert not gallery.wait_for_index(0.01)
        threading.Timer(0.1, go_on.set).start()
        assert gallery.wait_for_index(60)
        assert gallery._index._graph is not None
        assert len(gallery._index._graph) == 2 * FIRST
