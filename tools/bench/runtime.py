"""What a run of the TensorRT engine costs beside the network: binding, copies, synchronisation, bookkeeping.

Measured on the stand-ins of the repository (`--stand-ins tests/fakes`), whose network takes no time; so no GPU is
needed, and the figure holds what the stand-ins themselves cost. The peer is numpy copying the input and the output
once: the least that any runtime does whose results belong to the caller.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edgeface.errors import ConfigurationError
from edgeface.manifest import ARCFACE_112, Manifest, Preprocessing, manifest_path
from edgeface.tools.bench.harness import Row, measure

if TYPE_CHECKING:
    from collections.abc import Iterator

TITLE = "overhead of the TensorRT runtime, without the network"
OPTIONS = [
    click.Option(["--stand-ins"], type=click.Path(file_okay=False, exists=True, path_type=Path),
                 default=Path("tests/fakes"), show_default=True,
                 help="The repository's stand-ins for TensorRT and pycuda."),
]  # fmt: skip
LIMIT_MS = 0.060
DIMENSION = 128


def rows(*, stand_ins: Path) -> Iterator[Row]:
    """One row for each batch and kind of memory, faces of 112 x 112 px."""
    sys.path.insert(0, str(stand_ins.absolute()))
    fake_cuda, fake_tensorrt = (importlib.import_module(name) for name in ("fake_cuda", "fake_tensorrt"))
    cuda = fake_cuda.FakeCuda()
    trt = fake_tensorrt.FakeTensorRt(cuda)
    answer = np.random.default_rng(0).random((4, DIMENSION), np.float32)
    trt.networks["still"] = lambda tensor: {"out": answer[: len(tensor)]}
    for name, module in (("pycuda", SimpleNamespace(driver=cuda.module)), ("pycuda.driver", cuda.module),
                         ("tensorrt", trt.module)):  # fmt: skip
        if name in sys.modules:
            raise ConfigurationError(f"{name} is loaded already: run this benchmark in a process of its own")
        sys.modules[name] = module  # type: ignore[assignment]  # a stand-in is no module
    with tempfile.TemporaryDirectory(prefix="edgeface-bench-") as folder:
        path = _engine(Path(folder), fake_tensorrt)
        for memory in ("mapped", "copied"):
            for batch in (1, 4):
                yield _row(path, memory, batch, answer)


def _row(path: Path, memory: str, batch: int, answer: Any) -> Row:
    from edgeface.runtime import load_engine

    tensor = np.random.default_rng(1).random((batch, 3, 112, 112), np.float32)
    into = np.empty_like(tensor)

    def copies() -> Any:
        np.copyto(into, tensor)
        return answer[:batch].copy()

    with load_engine(path, memory=memory, prepare="cpu") as engine:
        right = np.array_equal(engine.run(tensor)["embedding"], answer[:batch])
        row = measure(
            f"batch {batch}, {memory}",
            lambda: engine.run(tensor),
            copies,
            peer_name=f"numpy {np.__version__}, copies alone",
            correctness="results equal" if right else "RESULTS DIFFER",
        )
    extra = {"overhead_us": row.ours_ms * 1e3, "limit_us": LIMIT_MS * 1e3} if batch == 4 else None
    return dataclasses.replace(row, extra=extra)


def _engine(folder: Path, fake_tensorrt: Any) -> Path:
    content: bytes = fake_tensorrt.engine_file(
        input_name="data", low=(1, 3, 112, 112), high=(4, 3, 112, 112), outputs=["out"], network="still"
    )
    path = folder / "still.fp32.plan"
    manifest = Manifest(
        name="still", model_id="still@0/fp32", file=path.name, sha256=hashlib.sha256(content).hexdigest(),
        size=len(content), kind="embedder", precision="fp32", runtime="tensorrt", licence="none",
        source="a benchmark", input_name="data", input_size=(112, 112), max_batch=4,
        preprocessing=Preprocessing("rgb"), outputs={"embedding": "out"}, dimension=DIMENSION, template=ARCFACE_112,
        build={"tensorrt": "10.3.0", "compute_capability": "8.7", "device": "Orin"},
    )  # fmt: skip
    path.write_bytes(content)
    manifest_path(path).write_text(manifest.to_json())
    return path
