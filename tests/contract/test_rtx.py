"""The real TensorRT-RTX on a machine without a GPU: it builds an engine, and loading that here is a clear error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import hashlib, sys
from pathlib import Path
import tensorrt_rtx_bindings as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
given = network.add_input("data", trt.float32, (-1, 3, 16, 16))
layer = network.add_activation(given, trt.ActivationType.RELU)
layer.get_output(0).name = "out"
network.mark_output(layer.get_output(0))
config = builder.create_builder_config()
config.num_compute_capabilities = 1
config.set_compute_capability(trt.ComputeCapability.SM86, 0)
profile = builder.create_optimization_profile()
profile.set_shape("data", (1, 3, 16, 16), (4, 3, 16, 16), (4, 3, 16, 16))
config.add_optimization_profile(profile)
content = bytes(builder.build_serialized_network(network, config))
assert len(content) > 1000, len(content)

from edgeface.errors import EdgefaceError
from edgeface.manifest import ARCFACE_112, Manifest, Preprocessing, manifest_path
from edgeface.runtime import load_engine

def load(version):
    path = Path(sys.argv[1]) / "relu.fp32.rtx.plan"
    path.write_bytes(content)
    manifest = Manifest(
        name="relu", model_id="relu@0/fp32", file=path.name, sha256=hashlib.sha256(content).hexdigest(),
        size=len(content), kind="embedder", precision="fp32", runtime="tensorrt-rtx", licence="none", source="a test",
        input_name="data", input_size=(16, 16), max_batch=4, preprocessing=Preprocessing("rgb"),
        outputs={"embedding": "out"}, dimension=768, template=ARCFACE_112,
        build={"tensorrt": version, "device": "SM86"},
    )
    manifest_path(path).write_text(manifest.to_json())
    try:
        load_engine(path).close()
        print("loaded")
    except EdgefaceError as error:
        print(type(error).__name__, error)

load("0.0.1")
load(trt.__version__)
"""


def test_an_engine_of_the_real_builder_is_refused_without_a_driver(tmp_path: Path) -> None:
    folder = os.environ.get("EDGEFACE_TEST_RTX")
    if folder is None or not (Path(folder) / "tensorrt_rtx_bindings").is_dir():
        pytest.skip("EDGEFACE_TEST_RTX names no folder with TensorRT-RTX: `.ci/tensorrt` fetches it and runs this")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": folder},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert lines[0].startswith("EngineIncompatibleError")
    assert "built by TensorRT 0.0.1, here is 1." in lines[0]
    assert lines[1] == "loaded" or lines[1].startswith(("MissingDependencyError", "EngineIncompatibleError"))
    if lines[1].startswith("MissingDependencyError"):
        assert "driver" in lines[1] or "pycuda" in lines[1]
