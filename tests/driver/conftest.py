"""Scripts for the real pycuda over a stand-in for the driver.

Each runs in a process of its own, into which the stand-in is preloaded; standard error must stay empty, for that is
where pycuda reports what it leaks.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import host_kernels
import pytest
from fake_driver import compile_driver, why_not
from fake_tensorrt import engine_file

from edgeface.manifest import ARCFACE_112, Manifest, Preprocessing, manifest_path

if TYPE_CHECKING:
    from collections.abc import Callable

FAKES = Path(__file__).parents[1] / "fakes"

START = """
    import json, os, pathlib, sys, threading, warnings
    sys.path.insert(0, {fakes!r})
    warnings.simplefilter("ignore")  # pycuda compares versions of header and driver
    from fake_driver import Device
    from fake_tensorrt import FakeTensorRt
    import host_kernels
    import numpy as np
    device = Device()
    trt = FakeTensorRt(device)
    trt.networks["first"] = lambda tensor: {{"out": tensor.reshape(len(tensor), -1)[:, :8].copy()}}
    sys.modules["tensorrt"] = trt.module
    from edgeface.errors import EdgefaceError, EngineError, InferenceError
    from edgeface.runtime import cuda_kernels, load_engine
    path = {engine!r}
    vars(cuda_kernels).update(host_kernels.files(pathlib.Path(path).parent))  # not there until host_kernels.build
    def tensor(count, seed=0):
        return np.random.default_rng(seed).random((count, 3, 16, 16), np.float32)
    def correct(engine, count, seed):
        given = tensor(count, seed)
        np.testing.assert_array_equal(engine.run(given)["embedding"], given.reshape(count, -1)[:, :8])
    def report(**more):
        print(json.dumps(dict(device.state(), **more)))
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    return compile_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def script(driver: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`script(lines)`: runs them and gives what `report` printed."""
    path = tmp_path / "first.fp32.plan"
    content = engine_file(input_name="data", low=(1, 3, 16, 16), high=(4, 3, 16, 16), outputs=["out"], network="first")
    manifest = Manifest(
        name="first", model_id="first@0/fp32", file=path.name, sha256=hashlib.sha256(content).hexdigest(),
        size=len(content), kind="embedder", precision="fp32", runtime="tensorrt", licence="none", source="a test",
        input_name="data", input_size=(16, 16), max_batch=4, preprocessing=Preprocessing("rgb"),
        outputs={"embedding": "out"}, dimension=8, template=ARCFACE_112,
        build={"tensorrt": "10.3.0", "compute_capability": "8.7", "device": "Orin"},
    )  # fmt: skip
    path.write_bytes(content)
    manifest_path(path).write_text(manifest.to_json())

    def run(lines: str) -> dict[str, Any]:
        code = textwrap.dedent(START).format(fakes=str(FAKES), engine=str(path)) + textwrap.dedent(lines)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "LD_PRELOAD": str(driver), "EDGEFACE_HOST_KERNELS": str(host_kernels.compile_kernels())},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return last

    return run
