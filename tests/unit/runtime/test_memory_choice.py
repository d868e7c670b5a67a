"""Which memory a TensorRT engine takes, on made-up GPUs: measured where the GPU shares the processor's."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_jetson import Jetson, tones

from edgeface.errors import EngineError
from edgeface.runtime import tensorrt_trials


def test_memory_is_measured_where_the_gpu_shares_it(jetson: Jetson) -> None:
    with jetson.load() as engine:
        assert engine.memory in ("mapped", "copied")
        assert re.fullmatch(r"measured at load: copied \d+\.\d{3} ms, mapped \d+\.\d{3} ms", engine.memory_reason)


def test_a_gpu_with_its_own_memory_gets_copies(jetson: Jetson) -> None:
    jetson.cuda.integrated = False
    with jetson.load() as engine:
        assert (engine.memory, engine.memory_reason) == ("copied", "the GPU has memory of its own")


@pytest.mark.parametrize(
    ("call", "after", "left", "lacks"),
    [("cuMemHostAlloc", 2, "copied", "mapped"), ("cuMemAlloc", 0, "mapped", "copied"),
     ("cuMemAlloc", 1, "mapped", "copied"), ("create_execution_context", 2, "copied", "mapped")],
)  # fmt: skip
def test_where_there_is_room_for_one_kind_that_one_it_is(
    jetson: Jetson, call: str, after: int, left: str, lacks: str
) -> None:
    """To measure, both kinds are held; the engine itself needs one."""
    if call.startswith("cu"):
        jetson.cuda.fail(call, after=after)
    else:
        jetson.trt.refuse[call] = after
    tensor = np.random.default_rng(5).normal(size=(2, 3, 112, 112)).astype(np.float32)
    with jetson.load(workers=2) as engine:
        assert engine.memory == left
        assert f"there was no room to measure {lacks} memory: " in engine.memory_reason
        np.testing.assert_array_equal(engine.run(tensor)["embedding"], tones(tensor)["out"])
    assert (jetson.cuda.memory_in_use(), jetson.cuda.retained) == (0, 0)


def test_a_lost_context_is_no_lack_of_room(jetson: Jetson) -> None:
    jetson.cuda.fail("cuMemAlloc", why="illegal memory access", sticky=True)
    with pytest.raises(EngineError, match="cuMemAlloc failed: illegal memory access"):
        jetson.load()


def test_a_gpu_that_clocks_up_does_not_choose_its_memory(jetson: Jetson, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mapped memory is the slower one here by a tenth, and each run takes 2 % less than the one before."""
    now, took, uploads = 0.0, 1.0, 0

    def work(tensor: Any) -> dict[str, Any]:
        nonlocal now, took, uploads
        copied, uploads = jetson.cuda.calls["cuMemcpyHtoDAsync"] > uploads, jetson.cuda.calls["cuMemcpyHtoDAsync"]
        took *= 0.98
        now += took * (1.0 if copied else 1.1)
        return tones(tensor)

    jetson.trt.networks["tones"] = work
    monkeypatch.setattr(tensorrt_trials, "time", SimpleNamespace(perf_counter=lambda: now))
    with jetson.load() as engine:
        assert engine.memory == "copied", engine.memory_reason
