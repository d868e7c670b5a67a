"""The compiler's adapter against a stand-in with TensorRT's names: what it asks for, and what it does then."""

from __future__ import annotations

import os
import signal
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edgeface.engines import tensorrt_builder
from edgeface.engines.recipe import load_recipe
from edgeface.errors import BuildError, MissingDependencyError
from edgeface.manifest import Manifest


@dataclass
class Asked:
    """What the adapter asked of the stand-in, and how it shall answer."""

    calls: dict[str, Any] = field(default_factory=dict)
    parses: bool = True
    plan: bytes | None = b"plan"
    interrupt: bool = False


def stand_in(asked: Asked) -> types.ModuleType:
    trt: Any = types.ModuleType("tensorrt")
    trt.__version__ = "10.3.0"
    names = types.SimpleNamespace
    trt.NetworkDefinitionCreationFlag = names(STRONGLY_TYPED=1)
    trt.MemoryPoolType = names(WORKSPACE="workspace")
    trt.ProfilingVerbosity = names(DETAILED="detailed")

    class ILogger:
        Severity = names(WARNING=2)

    class IProgressMonitor:
        pass

    class Config:
        progress_monitor: Any = None

        def set_memory_pool_limit(self, pool: str, size: int) -> None:
            asked.calls[pool] = size

        def add_optimization_profile(self, profile: Any) -> int:
            asked.calls["profile"] = profile.shapes
            return 0

        def create_timing_cache(self, content: bytes) -> Any:
            asked.calls["cache"] = content
            return names(serialize=lambda: b"timings")

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> None:
            asked.calls["ignore_mismatch"] = ignore_mismatch

        def get_timing_cache(self) -> Any:
            return names(serialize=lambda: b"timings")

    class Profile:
        def set_shape(self, name: str, *shapes: Any) -> None:
            self.shapes = {name: shapes}

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def create_network(self, flags: int) -> Any:
            asked.calls["flags"] = flags
            return names(get_input=lambda i: names(name="data", shape=(-1, 3, 112, 112)))

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Any, config: Config) -> bytes | None:
            self.logger.log(1, "an error")
            self.logger.log(4, "chatter")
            monitor = config.progress_monitor
            monitor.phase_start("Building", None, 3)
            monitor.phase_start("inner", "Building", 9)
            if asked.interrupt:
                os.kill(os.getpid(), signal.SIGINT)
            going = monitor.step_complete("inner", 0) and monitor.step_complete("Building", 0)
            monitor.phase_finish("Building")
            return asked.plan if going else None

    class OnnxParser:
        num_errors = 2

        def __init__(self, network: Any, logger: Any) -> None:
            pass

        def parse(self, content: bytes) -> bool:
            asked.calls["onnx"] = content
            return asked.parses

        def get_error(self, number: int) -> Any:
            reasons = ["Unsupported operator Foo", "asymmetric zero point"]
            return names(desc=lambda: reasons[number], node=lambda: number, node_name=lambda: f"n{number}" * number)

    trt.ILogger, trt.IProgressMonitor, trt.Builder, trt.OnnxParser = ILogger, IProgressMonitor, Builder, OnnxParser
    made: types.ModuleType = trt
    return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    asked = Asked()
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in(asked))
    monkeypatch.setenv("EDGEFACE_HOME", str(tmp_path))
    monkeypatch.setattr(tensorrt_builder, "driver_version", lambda: 0)
    return asked


@pytest.fixture
def manifest() -> Manifest:
    recipe = load_recipe("sface")
    return Manifest(
        name="sface", model_id="sface@x/int8", file="sface.onnx", sha256="0" * 64, size=1, kind="embedder",
        precision="int8", runtime="onnxruntime", licence="none", source="made", input_name="data",
        input_size=(112, 112), max_batch=None, preprocessing=recipe.preprocessing, outputs=recipe.outputs,
        dimension=128, template=recipe.template,
    )  # fmt: skip


def compile_plan(manifest: Manifest, stages: list[tuple[str, int]] | None = None) -> tensorrt_builder.Compiled:
    def stage(title: str, steps: int) -> Any:
        if stages is not None:
            stages.append((title, steps))
        return lambda done: None

    return tensorrt_builder.compile_plan(b"network", manifest, target="tensorrt", stage=stage)


def test_what_is_asked_of_the_compiler(asked: Asked, manifest: Manifest, tmp_path: Path) -> None:
    stages: list[tuple[str, int]] = []
    compiled = compile_plan(manifest, stages)
    assert (compiled.plan, compiled.layers) == (b"plan", [])
    assert asked.calls["flags"] == 2, "strongly typed, and nothing else"
    assert asked.calls["onnx"] == b"network"
    assert 0 < asked.calls["workspace"] <= tensorrt_builder.MOST_WORKSPACE
    assert asked.calls["profile"] == {"data": ((1, 3, 112, 112), (4, 3, 112, 112), (16, 3, 112, 112))}
    assert stages == [("compiling: Building", 3)]
    assert compiled.facts["warnings"] == ["an error"], "chatter is left out"
    (cache,) = (tmp_path / "timing").iterdir()
    assert cache.name.startswith("tensorrt-10.3.0-")
    assert cache.read_bytes() == b"timings"
    compile_plan(manifest)
    assert asked.calls["cache"] == b"timings", "the second build starts from the first one's timings"
    assert asked.calls["ignore_mismatch"] is False


def test_every_error_of_the_parser_is_told(asked: Asked, manifest: Manifest) -> None:
    asked.parses = False
    with pytest.raises(BuildError) as caught:
        compile_plan(manifest)
    assert "node 0: Unsupported operator Foo; n1: asymmetric zero point" in str(caught.value)


def test_a_compiler_that_gives_nothing(asked: Asked, manifest: Manifest, tmp_path: Path) -> None:
    asked.plan = None
    with pytest.raises(BuildError, match=r"TensorRT 10\.3\.0 could not compile: an error"):
        compile_plan(manifest)
    assert not (tmp_path / "timing").exists()


def test_control_c_stops_the_compiler_and_leaves_nothing(asked: Asked, manifest: Manifest, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    asked.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        compile_plan(manifest)
    assert signal.getsignal(signal.SIGINT) is before
    assert list(tmp_path.iterdir()) == []


def test_without_tensorrt_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"system package of JetPack.*--system-site-packages"):
        tensorrt_builder.import_tensorrt("tensorrt")
