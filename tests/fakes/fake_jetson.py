"""Fixtures of a made-up Jetson: strict stand-ins in the places of pycuda and TensorRT, and engine files."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import host_kernels
import numpy as np
import pytest
from fake_cuda import FakeCuda
from fake_tensorrt import FakeTensorRt, engine_file

from edgeface.engines import tensorrt_builder
from edgeface.manifest import Manifest, manifest_path, read_manifest
from edgeface.runtime import cuda_kernels, load_engine, tensorrt, tensorrt_trials
from edgeface.runtime.tensorrt import TensorRtEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROFILES = {
    "yunet": ((1, 3, 32, 32), (1, 3, 640, 640)),
    "sface": ((1, 3, 112, 112), (4, 3, 112, 112)),
}
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

    def build_kernels(self) -> None:
        """Install the CUDA kernels; unless asked, there are none."""
        host_kernels.build(cuda_kernels.FATBIN.parent)

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
    """A `Jetson` that has manifests to make engines with."""
    with lent(tmp_path, monkeypatch) as made:
        made.manifest = embedder_manifest
        yield made


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jetson]:
    """A `Jetson` to build engines on."""
    with lent(tmp_path, monkeypatch) as made:
        yield made


@contextmanager
def lent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jetson]:
    """A `Jetson`; at the end nothing of it may be left: memory, contexts, streams, TensorRT's objects."""
    cuda = FakeCuda()
    trt = FakeTensorRt(cuda)
    trt.networks["tones"] = tones
    install(monkeypatch, cuda.module, trt.module)
    # Trials of their full length, with the largest batch, would be seconds of every test and tell nothing here.
    monkeypatch.setattr(tensorrt_trials, "TRIALS", 2)
    monkeypatch.setattr(tensorrt_trials, "WARM_UP", 1)
    for name, path in host_kernels.files(folder).items():
        monkeypatch.setattr(cuda_kernels, name, path)
    monkeypatch.setattr(tensorrt_builder, "_logs", {})
    yield Jetson(cuda, trt, folder, Manifest)
    assert cuda.leaks == []
    assert cuda.memory_in_use() == 0
    assert cuda.modules == 0
    assert cuda.graphs == []
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


def convert(folder: Path, name: str, **changes: Any) -> Path:
    """An engine file that stands for what `edgeface build` would make of a model of the folder."""
    source = folder / f"{name}.fp32.onnx"
    content = source.read_bytes()
    manifest = read_manifest(source)
    low, high = PROFILES[name]
    import onnx

    every = [output.name for output in onnx.load_model_from_string(content).graph.output]
    whole = engine_file(input_name=manifest.input_name, low=low, high=high, outputs=every, onnx=content)
    path = folder / f"{name}.fp32.plan"
    made = dataclasses.replace(
        manifest, file=path.name, size=len(whole), sha256=hashlib.sha256(whole).hexdigest(), runtime="tensorrt",
        max_batch=high[0], build={**BUILD, "fp32_sha256": manifest.sha256},
    )  # fmt: skip
    path.write_bytes(whole)
    manifest_path(path).write_text(dataclasses.replace(made, **changes).to_json())
    return path


@pytest.fixture
def models(model_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder of this test with the default models and no engines yet."""
    folder = tmp_path / "home" / "models"
    folder.mkdir(parents=True)
    for file in (model_home / "models").iterdir():
        (folder / file.name).symlink_to(file.resolve())
    monkeypatch.setenv("EDGEFACE_HOME", str(folder.parent))
    return folder


@pytest.fixture
def engines(models: Path) -> Path:
    """The same with engines beside the models."""
    convert(models, "yunet")
    convert(models, "sface")
    return models
