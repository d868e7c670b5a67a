"""Which memory a TensorRT engine takes, on made-up GPUs: measured where the GPU shares the processor's."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from fake_jetson import Jetson, tones

from edgeface.runtime import tensorrt_trials

if TYPE_CHECKING:
    import pytest


def test_memory_is_measured_where_the_gpu_shares_it(jetson: Jetson) -> None:
    with jetson.load() as engine:
        assert engine.memory in ("mapped", "copied")
        assert re.fullmatch(r"measured at load: copied \d+\.\d{3} ms, mapped \d+\.\d{3} ms", engine.memory_reason)


def test_a_gpu_with_its_own_memory_gets_copies(jetson: Jetson) -> None:
    jetson.cuda.integrated = False
    with jetson.load() as engine:
        assert (engine.memory, engine.memory_reason) == ("copied", "the GPU has memory of its own")


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
