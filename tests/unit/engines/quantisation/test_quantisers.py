"""Other quantisers on a small network: they are called as meant, and what breaks NVIDIA's rules is found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from onnx import helper

from edgeface.engines import qdq, quantisers
from edgeface.engines.graph import Graph
from edgeface.engines.pictures import Inputs
from edgeface.engines.prepare import prepare
from edgeface.engines.quantize import read_tensors
from edgeface.engines.ranges import collect
from edgeface.engines.session import Runner
from edgeface.errors import BuildError, MissingDependencyError
from edgeface.manifest import Preprocessing

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE = 8


@pytest.fixture
def inputs() -> Inputs:
    coarse = np.random.default_rng(7).integers(0, 256, (16, 4, 4, 3), dtype=np.uint8)
    crops = np.stack([cv2.resize(one, (SIDE, SIDE)) for one in coarse])
    return Inputs(crops, Preprocessing("rgb", (128.0,) * 3, (64.0,) * 3))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["onnxruntime_default", "onnxruntime_for_nvidia"])
def test_onnxruntime_quantises_and_its_defaults_break_the_rules(
    network: Callable[..., Graph], inputs: Inputs, name: str
) -> None:
    content = getattr(quantisers, name)(network().to_bytes(), "in", inputs)
    graph = quantisers.graph_of(content)
    found = " ".join(quantisers.objections(graph))
    if name == "onnxruntime_default":
        assert "INT32 bias" in found
        assert "zero point not 0" in found
    else:
        assert found == ""
    assert quantisers.int8_share(graph, inputs) == 1.0
    want, got = (Runner(g).run(inputs)["out"] for g in (network(), graph))
    assert np.corrcoef(want.ravel(), got.ravel())[0, 1] > 0.9


def test_a_network_that_it_cannot_take_is_a_clear_error(inputs: Inputs) -> None:
    with pytest.raises(BuildError, match="quantize_static failed"):
        quantisers.onnxruntime_default(b"this is no network", "in", inputs)
    with pytest.raises(BuildError, match="not an ONNX file"):
        quantisers.graph_of(b"this is no network")


def test_rules_and_share_of_our_own(network: Callable[..., Graph], inputs: Inputs) -> None:
    graph = prepare(network())
    ranges = {name: item.range("max") for name, item in collect(graph, inputs, read_tensors(graph)).items()}
    layers = [node.name for node in graph.weighted()]
    done = qdq.insert(graph, layers, ranges)
    assert quantisers.objections(done) == []
    assert quantisers.int8_share(done, inputs) == 1.0
    assert quantisers.int8_share(graph, inputs) == 0.0
    part = quantisers.int8_share(qdq.insert(graph, layers[:1], ranges), inputs)
    first = 6 * 3 * 9 * 64  # multiply-accumulates of the stem
    rest = 6 * 9 * 64 + 6 * 8 * 64 + 2 * 8 * 12 * 64 + 8 * 4 * 64 + 16 * 256
    assert part == pytest.approx(first / (first + rest))


def test_unsigned_tensors_break_the_rules(network: Callable[..., Graph]) -> None:
    graph = prepare(network())
    scale = graph.add_constant("scale", np.array(0.1, np.float32))
    zero = graph.add_constant("unsigned", np.array(128, np.uint8))
    pair = [
        helper.make_node("QuantizeLinear", ["in", scale, zero], ["steps"], name="steps"),
        helper.make_node("DequantizeLinear", ["steps", scale, zero], ["back"], name="back"),
        helper.make_node("QuantizeLinear", ["in", scale], ["bare"], name="bare"),
    ]
    graph.insert_after(None, pair)
    assert quantisers.objections(graph) == ["UINT8 tensor (2)", "no zero point, so UINT8 (1)"]


def python(folder: Path, program: str) -> Path:
    """A stand-in for the Python of nvidia-modelopt's environment."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\nimport sys\n{program}\n")
    path.chmod(0o755)
    return path


def test_modelopt_is_called_by_its_command_line(network: Callable[..., Graph], inputs: Inputs, tmp_path: Path) -> None:
    program = f"""
words = sys.argv[1:]
if words[0] == "-c":
    print("a notice of its own")
    print("version 0.47.0")
else:
    import numpy
    assert words[:2] == ["-m", "modelopt.onnx.quantization"]
    options = dict(zip(words[2::2], words[3::2]))
    pictures = numpy.load(options["--calibration_data_path"])
    assert pictures.shape == (16, 3, {SIDE}, {SIDE}) and pictures.dtype == numpy.float32
    assert options["--calibration_shapes"] == "in:1x3x{SIDE}x{SIDE}" and options["--quantize_mode"] == "int8"
    open(options["--output_path"], "wb").write(open(options["--onnx_path"], "rb").read() + b"!")
"""
    stand_in = python(tmp_path, program)
    assert quantisers.modelopt_version(stand_in) == "0.47.0"
    assert quantisers.modelopt(stand_in)(b"network", "in", inputs) == b"network!"
    failing = python(tmp_path, "sys.exit('no such operator')")
    with pytest.raises(BuildError, match="nvidia-modelopt failed: no such operator"):
        quantisers.modelopt(failing)(b"network", "in", inputs)


def test_modelopt_that_is_absent_is_said_with_the_way_to_it(tmp_path: Path) -> None:
    failing = python(tmp_path, "raise ModuleNotFoundError(\"No module named 'modelopt'\")")
    with pytest.raises(
        MissingDependencyError, match=r"No module named 'modelopt'.*pip install nvidia-modelopt\[onnx\]"
    ):
        quantisers.modelopt_version(failing)
    with pytest.raises(BuildError, match="cannot run"):
        quantisers.modelopt_version(tmp_path / "absent")


def test_the_parser_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(target: str) -> Any:
        raise MissingDependencyError("not installed")

    monkeypatch.setattr(quantisers, "import_tensorrt", absent)
    assert quantisers.parsed(b"") is None
