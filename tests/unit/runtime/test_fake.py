"""The engine for users' tests obeys the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeface import Engine
from edgeface.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeface.runtime.fake import FakeEngine


def test_it_is_an_engine_and_remembers_what_it_was_shown(tone_embedder: Callable[..., FakeEngine]) -> None:
    engine = tone_embedder()
    assert isinstance(engine, Engine)
    for count in (1, 3):
        assert engine.run(np.zeros((count, 3, 112, 112), np.float32))["embedding"].shape == (count, 8)
    assert engine.shapes == [(1, 3, 112, 112), (3, 3, 112, 112)]


def test_closed_it_refuses(tone_embedder: Callable[..., FakeEngine]) -> None:
    with tone_embedder() as engine:
        engine.close()
    with pytest.raises(ClosedError, match="tones: this engine was closed"):
        engine.run(np.zeros((1, 3, 112, 112), np.float32))
    assert engine.shapes == []
