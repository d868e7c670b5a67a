"""onnxruntime behind the protocol: a tiny network whose answer is known, and all that can be wrong with a file."""

from __future__ import annotations

import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgeface import load_engine
from edgeface.errors import (
    ClosedError,
    ConfigurationError,
    EngineIncompatibleError,
    InferenceError,
    InputError,
    MissingDependencyError,
    ModelIntegrityError,
    ModelNotFoundError,
)
from edgeface.manifest import manifest_path
from edgeface.runtime.onnxrt import OnnxRuntimeEngine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgeface.manifest import Manifest


def network(batch: int | str = "batch", *, inputs: tuple[str, ...] = ("data",)) -> bytes:
    """Means over the picture: (N, 3, 8, 8) to (N, 3)."""
    shape = [batch, 3, 8, 8]
    nodes = [helper.make_node("ReduceMean", [inputs[0]], ["out"], axes=[2, 3], keepdims=0)]
    graph = helper.make_graph(
        nodes, "tiny",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in inputs],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, 3])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture
def tiny(embedder_manifest: Callable[..., Manifest]) -> Callable[..., Manifest]:
    return lambda **changes: embedder_manifest(**{"input_size": (8, 8), "dimension": 3, **changes})


@pytest.fixture
def stored(tmp_path: Path, tiny: Callable[..., Manifest]) -> Path:
    path = tmp_path / "tones.fp32.onnx"
    path.write_bytes(network())
    manifest = tiny(sha256=hashlib.sha256(network()).hexdigest(), size=len(network()))
    manifest_path(path).write_text(manifest.to_json())
    return path


RAMP = np.arange(2 * 3 * 64, dtype=np.float32).reshape(2, 3, 8, 8)


def test_a_stored_model_runs(stored: Path) -> None:
    with load_engine(stored, threads=1) as engine:
        assert engine.description == f"onnxruntime {onnxruntime.__version__} on CPU, 1 thread"
        outputs = engine.run(RAMP)
        assert list(outputs) == ["embedding"]
        assert np.allclose(outputs["embedding"], RAMP.mean(axis=(2, 3)))
    with load_engine(str(stored), threads=3) as engine:
        assert engine.description.endswith("3 threads")


def test_results_are_the_callers(stored: Path) -> None:
    with load_engine(stored) as engine:
        first = engine.run(RAMP)["embedding"]
        kept = first.copy()
        engine.run(RAMP + 100)
        assert np.array_equal(first, kept)


def test_int8_accuracy_and_threads_are_set(monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., Manifest]) -> None:
    seen: list[Any] = []
    real = onnxruntime.InferenceSession

    def session(content: bytes, options: Any, providers: list[str]) -> Any:
        seen.append((options, providers))
        return real(content, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    OnnxRuntimeEngine(network(), tiny(), threads=2)
    ((options, providers),) = seen
    # Without it a processor that lacks VNNI saturates INT8 products: measured accuracy is another.
    assert options.get_session_config_entry("session.x64quantprecision") == "1"
    assert options.intra_op_num_threads == 2
    assert providers == ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    "options",
    [{"graphs": "maybe"}, {"graphs": None}, {"prepare": "x"}, {"memory": "fast"}, {"frame_size": "x"},
     {"frame_size": (10, 10)}, {"workers": 0}],
)  # fmt: skip
def test_options_of_a_gpu_are_checked_without_one(options: dict[str, Any], stored: Path) -> None:
    """A service that was tried on a CPU must not fail on the board for a word."""
    with pytest.raises(InputError, match=f"{next(iter(options))}: expected"):
        load_engine(stored, **options)
    with pytest.raises(ConfigurationError, match=r"records runs into CUDA graphs, .*; omit `graphs`, or build"):
        load_engine(stored, graphs="on")


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_threads_that_are_none_are_refused(threads: Any, stored: Path) -> None:
    with pytest.raises(InputError, match="threads: expected a whole number from 1 to 256"):
        load_engine(stored, threads=threads)


@pytest.mark.parametrize(
    "tensor",
    [None, [[1.0]], RAMP[0], RAMP.astype(np.float64), RAMP.astype(np.uint8), RAMP[:, :1], RAMP[:, :, :3], RAMP[:0],
     RAMP[..., :2]],
)  # fmt: skip
def test_a_tensor_that_does_not_fit_is_refused(tensor: Any, stored: Path) -> None:
    with (
        load_engine(stored) as engine,
        pytest.raises(InputError, match=r"expected a tensor \(N, 3, 8, 8\) float32, got"),
    ):
        engine.run(tensor)


def test_a_batch_beyond_the_manifests_is_refused(tiny: Callable[..., Manifest]) -> None:
    with OnnxRuntimeEngine(network(1), tiny(max_batch=1)) as engine:
        assert engine.run(RAMP[:1])["embedding"].shape == (1, 3)
        with pytest.raises(InputError, match="batch 2 is larger than 1"):
            engine.run(RAMP)


@pytest.mark.parametrize("size", [(32, 30), (0, 32), (33, 64)])
def test_a_free_size_is_a_multiple_of_32(size: tuple[int, int], with_models: Path) -> None:
    with load_engine(with_models / "models/yunet.fp32.onnx") as engine:
        with pytest.raises(InputError, match=r"yunet: expected a tensor \(N, 3, H, W\) float32"):
            engine.run(np.zeros((1, 3, *size), np.float32))
        assert engine.run(np.zeros((1, 3, 32, 64), np.float32))["cls_8"].shape == (1, 32, 1)


def test_a_network_that_fails_is_an_inference_error(tiny: Callable[..., Manifest]) -> None:
    # The manifest lies: the file takes one picture at a time.
    with (
        OnnxRuntimeEngine(network(1), tiny()) as engine,
        pytest.raises(InferenceError, match="tones: onnxruntime failed"),
    ):
        engine.run(RAMP)


def test_non_contiguous_tensors_run(stored: Path) -> None:
    with load_engine(stored) as engine:
        turned = RAMP.transpose(0, 1, 3, 2)
        assert np.allclose(engine.run(turned)["embedding"], RAMP.mean(axis=(2, 3)))


@pytest.mark.parametrize("content", [b"", b"no network", b"\x08\x07" * 50, network()[:-20]])
def test_bytes_that_are_no_network_are_refused(content: bytes, tiny: Callable[..., Manifest]) -> None:
    with pytest.raises(EngineIncompatibleError, match=r"tones: onnxruntime .* refuses tones\.fp32\.onnx"):
        OnnxRuntimeEngine(content, tiny())


def test_another_input_or_output_is_refused(tiny: Callable[..., Manifest]) -> None:
    for manifest in (tiny(input_name="image"), tiny(outputs={"embedding": "fc1"})):
        with pytest.raises(
            EngineIncompatibleError, match=r"the manifest names input .* the file has \['data'\] and \['out'\]"
        ):
            OnnxRuntimeEngine(network(), manifest)
    with pytest.raises(EngineIncompatibleError, match="the file has"):
        OnnxRuntimeEngine(network(inputs=("data", "mask")), tiny())


def test_closing_is_final_and_harmless_twice(stored: Path) -> None:
    engine = load_engine(stored)
    engine.close()
    engine.close()
    with pytest.raises(ClosedError, match="tones: this engine was closed"):
        engine.run(RAMP)


def test_closing_while_others_run_ends_in_results_or_closed_error(stored: Path) -> None:
    engine = load_engine(stored, threads=1)

    def work() -> str:
        try:
            while True:
                assert engine.run(RAMP)["embedding"].shape == (2, 3)
        except ClosedError:
            return "closed"

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work) for _ in range(4)]
        engine.close()
        assert [one.result(timeout=20) for one in running] == ["closed"] * 4


def test_files_that_do_not_belong_together_are_refused(stored: Path) -> None:
    renamed = stored.with_name("renamed.onnx")
    renamed.write_bytes(stored.read_bytes())
    with pytest.raises(ModelNotFoundError, match="no manifest"):
        load_engine(renamed)
    manifest_path(renamed).write_text(manifest_path(stored).read_text())
    with pytest.raises(EngineIncompatibleError, match=r"for a file named 'tones\.fp32\.onnx'; move both"):
        load_engine(renamed)
    stored.write_bytes(stored.read_bytes()[:-1])
    with pytest.raises(ModelIntegrityError, match="fetch or build it again"):
        load_engine(stored)
    stored.unlink()
    with pytest.raises(ModelNotFoundError, match="no such model file"):
        load_engine(stored)


def test_without_onnxruntime_the_message_says_what_to_install(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[host\]'` in edgeface's folder$"):
        load_engine(stored)


def test_a_model_with_a_reference_to_other_files_stays_inside_its_bytes(tiny: Callable[..., Manifest]) -> None:
    """External data would read files that the checksum does not cover."""
    model = onnx.load_model_from_string(network())
    tensor = helper.make_tensor("weights", TensorProto.FLOAT, [3], [1, 2, 3])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    model.graph.initializer.append(tensor)
    model.graph.node.append(helper.make_node("Identity", ["weights"], ["leak"]))
    model.graph.output.append(helper.make_tensor_value_info("leak", TensorProto.FLOAT, [3]))
    with pytest.raises(EngineIncompatibleError, match="refuses"):
        OnnxRuntimeEngine(model.SerializeToString(), tiny())
