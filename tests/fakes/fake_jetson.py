"""Fixtures of a made-up Jetson: strict stand-ins in the places of pycuda and TensorRT, and engine files."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import FakeTensorRt, engine_file

from edgeface.manifest import Manifest, manifest_path
from edgeface.runtime import load_engine, tensorrt
from edgeface.runtime.tensorrt import TensorRtEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BUILD = {"tensorrt": "10.3.0", "compute_capability": "8.7", "device": "Orin"}


def tones(tensor: Any) -> dict[str, Any]:
    """A network of one line: mean and spread of the planes, and two more numbers, as an embedding of 8."""
    planes = tensor.reshape(len(tensor), 3, -1)
    ends = planes[:, 0, [0, -1]]
    return {"out": np.concatenate([planes.mean(2), planes.std(2), ends], axis=1).astype(np.float32)}


@dataclass
class Jetson:
    """A machine without hardware.

    Attributes:
        cuda, trt: the stand-ins, for faults and counts.
    """

    cuda: FakeCuda
    trt: FakeTensorRt
    folder: Path
    manifest: Callable[..., Manifest]

    def write(self, content: bytes | None = None, *, name: str = "tones.fp32.plan", **changes: Any) -> Path:
        """Write an engine with its manifest; by default the network `tones`, batches of 1 to 4."""
        if content is None:
            content = engine_file(
                input_name="data", low=(1, 3, 112, 112), high=(4, 3, 112, 112), outputs=["out"], network="tones"
            )
        given = self.manifest(file=name, runtime="tensorrt", max_batch=4, build=BUILD)
        changed = dataclasses.replace(given, sha256=hashlib.sha256(content).hexdigest(), size=len(content), **changes)
        path = self.folder / name
        path.write_bytes(content)
        manifest_path(path).write_text(changed.to_json())
        return path

    def load(self, **options: Any) -> TensorRtEngine:
        engine = load_engine(self.write(), **options)
        assert isinstance(engine, TensorRtEngine)
        return engine


def install(monkeypatch: pytest.MonkeyPatch, cuda: Any, trt: Any) -> None:
    """Put modules in the places of pycuda and TensorRT."""
    monkeypatch.setitem(sys.modules, "pycuda", SimpleNamespace(driver=cuda))
    monkeypatch.setitem(sys.modules, "pycuda.driver", cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(tensorrt, "_logs", {})


@pytest.fixture
def jetson(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedder_manifest: Callable[..., Manifest]
) -> Iterator[Jetson]:
    """A `Jetson`; at the end of the test nothing of it may be left: memory, contexts, streams, TensorRT's objects."""
    cuda = FakeCuda()
    trt = FakeTensorRt(cuda)
    trt.networks["tones"] = tones
    install(monkeypatch, cuda.module, trt.module)
    yield Jetson(cuda, trt, tmp_path, embedder_manifest)
    assert cuda.leaks == []
    assert cuda.memory_in_use() == 0
    assert cuda.retained == 0
    assert list(cuda.streams) == []
    assert trt.alive == {"Runtime": 0, "ICudaEngine": 0, "IExecutionContext": 0}
    assert cuda.stack() == []


@pytest.fixture
def batch() -> Callable[..., Any]:
    """`batch(n)`: a tensor for the network `tones`, another for every seed."""

    def make(count: int = 4, seed: int = 0) -> Any:
        values = np.random.default_rng(seed).normal(size=(count, 3, 112, 112))
        return values.astype(np.float32)

    return make
