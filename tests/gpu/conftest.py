"""The GPU of this machine, for the tests of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeface.errors import MissingDependencyError
from edgeface.runtime.cuda import Gpu, acquire_gpu, release_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def slack_bytes(gpu: Gpu) -> int:
    """By how much free memory may shrink while nothing leaks: a board's is that of the whole system."""
    return (256 if gpu.facts.integrated else 8) << 20


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    try:
        opened = acquire_gpu()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    yield opened
    release_gpu(opened)
