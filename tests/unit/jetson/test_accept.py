"""`jetson/accept.py`: the whole command on the CPU, and the parts that only a board has on stand-ins."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_jetson import Jetson

from edgeface.manifest import ARCFACE_112, Manifest
from edgeface.runtime.board import Board
from edgeface.runtime.fake import FakeEngine

ACCEPT = Path(__file__).parents[3] / "jetson" / "accept.py"


@pytest.fixture
def accept(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("edgeface_accept", ACCEPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "edgeface_accept", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def steady(faces: int) -> Any:
    """A recogniser that always finds so many faces."""
    return SimpleNamespace(recognize=lambda frame: [SimpleNamespace(name=None)] * faces)


@pytest.mark.slow
def test_the_whole_command_on_a_cpu(
    accept: ModuleType,
    with_models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    out = tmp_path / "report"
    code = accept.main(["--precision", "fp32", "--minutes", "0.01", "--seconds", "0.05", "--out", str(out)])
    document = json.loads((out / "acceptance.json").read_text())
    states = {section["name"]: section["state"] for section in document["sections"]}
    assert code == 0, capsys.readouterr().out
    assert states == {
        "build": "not applicable", "parity": "not applicable", "accuracy": "passed", "speed": "passed",
        "power": "not applicable", "soak": "passed", "memory": "passed",
    }  # fmt: skip
    assert document["runtimes"]["embedder"]["runtime"] == "onnxruntime"
    assert (out / "acceptance.html").read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_all_but_the_build_on_a_made_up_board(
    accept: ModuleType, jetson: Jetson, engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept, "build", lambda *given: accept.Section("build"))
    options = ["--precision", "fp32", "--runtime", "tensorrt", "--minutes", "0.01", "--seconds", "0.05"]
    assert accept.main([*options, "--out", str(tmp_path / "report")]) == 0
    document = json.loads((tmp_path / "report/acceptance.json").read_text())
    states = {section["name"]: section["state"] for section in document["sections"]}
    assert states == {
        "build": "passed", "parity": "passed", "accuracy": "passed", "speed": "passed", "power": "not applicable",
        "soak": "passed", "memory": "passed",
    }  # fmt: skip
    assert {choice["runtime"] for choice in document["runtimes"].values()} == {"tensorrt"}


def test_a_model_that_is_not_there_is_a_failure(accept: ModuleType, empty_home: Path, tmp_path: Path) -> None:
    assert accept.main(["--minutes", "0", "--out", str(tmp_path / "report")]) == 1
    document = json.loads((tmp_path / "report" / "acceptance.json").read_text())
    failed = [section for section in document["sections"] if section["state"] == "failed"]
    assert [section["name"] for section in failed] == ["recogniser"]
    assert "edgeface build" in failed[0]["reason"]


def test_power_is_read_from_tegrastats(accept: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "RAM 2448/7620MB CPU [5%@729] VDD_IN {0}mW/4800mW VDD_CPU_GPU_CV 700mW/700mW VDD_SOC 1400mW/1400mW"
    program = tmp_path / "tegrastats"
    program.write_text(f"#!/bin/sh\necho '{line.format(5000)}'\necho '{line.format(7000)}'\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    section = accept.power(steady(4), 0.3)
    assert (section.state, section.figures) == ("passed", {"mean_w": 6.0, "most_w": 7.0})
    program.write_text("#!/bin/sh\necho 'no figures'\nexec sleep 60\n")
    assert accept.power(steady(4), 0.3).state == "failed"


def test_a_soak_that_loses_faces_or_memory_fails(accept: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert accept.soak(steady(3), 0.001).state == "failed"
    used = iter(range(100, 100_000, 15))
    monkeypatch.setattr(accept, "resident_mb", lambda: float(next(used)))
    section = accept.soak(steady(4), 0.03)
    assert section.state == "failed"
    assert "memory grew by" in section.reason


def test_wrong_names_and_lost_faces_fail(accept: ModuleType) -> None:
    recognizer = steady(1)
    recognizer.enroll = lambda name, photos: None
    assert accept.accuracy(recognizer).state == "failed"
    assert "1 faces found of 16" in accept.speed(recognizer, 0.0).reason


def test_building_needs_photographs(accept: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fake_cuda import FakeCuda
    from fake_jetson import install
    from fake_tensorrt import FakeTensorRt

    cuda = FakeCuda()
    install(monkeypatch, cuda.module, FakeTensorRt(cuda).module)
    assert accept.build(None, "int8").state == "failed"
    (tmp_path / "edgeface").mkdir()
    (tmp_path / "edgeface/__init__.py").write_text("raise RuntimeError('a checkout, not what was installed')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(accept, "MODELS", ("sface",))
    missing = accept.build(Path("photos"), "int8")
    assert missing.state == "failed"
    assert "a checkout" not in missing.reason
    assert missing.reason.endswith(f"Directory '{tmp_path}/photos' does not exist.")


def test_a_build_writes_where_the_other_sections_look(
    accept: ModuleType, jetson: Jetson, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A relative EDGEFACE_HOME is of this process's folder; the builds run in another one."""
    ran: list[dict[str, Any]] = []

    def run(command: list[str], **options: Any) -> Any:
        ran.append(options)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEFACE_HOME", "models to accept")
    monkeypatch.setattr(accept.subprocess, "run", run)
    assert accept.build(tmp_path, "int8").state == "passed"
    assert {options["env"]["EDGEFACE_HOME"] for options in ran} == {str(tmp_path / "models to accept")}
    assert accept.model_path("sface").is_relative_to(tmp_path / "models to accept")


def test_a_board_without_tensorrt_is_not_accepted(accept: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert accept.build(None, "int8").state == "not applicable"
    monkeypatch.setattr(accept, "read_board", lambda: Board("Orin", "36.4.3", "6.2", "2"))
    section = accept.build(None, "int8")
    assert section.state == "failed"
    assert "tensorrt cannot be imported" in section.reason


@pytest.mark.parametrize(
    ("precision", "cosine", "state"),
    [("int8", 0.9982, "passed"), ("int8", 0.99, "failed"), ("fp16", 0.9982, "failed"), ("fp16", 0.9995, "passed")],
)
def test_parity_allows_what_int8_rounds_differently(
    accept: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    embedder_manifest: Callable[..., Manifest],
    precision: str,
    cosine: float,
    state: str,
) -> None:
    vectors = {".plan": (cosine, math.sqrt(1 - cosine**2)), ".onnx": (1.0, 0.0)}

    def load(path: Path) -> FakeEngine:
        row = np.array([*vectors[path.suffix], *[0.0] * 6], np.float32)
        manifest = embedder_manifest(precision=precision)
        return FakeEngine(manifest, lambda tensor: {"embedding": np.tile(row, (len(tensor), 1))})

    monkeypatch.setattr(accept, "load_engine", load)
    monkeypatch.setattr(accept, "is_stored", lambda path: True)
    points = np.array(ARCFACE_112, np.float32)[None]
    finder = SimpleNamespace(detect=lambda photo: SimpleNamespace(landmarks=points))
    section = accept.parity(precision, SimpleNamespace(detector=finder))
    assert section.state == state, section.reason
    assert f"least cosine {cosine:.5f}" in section.reason


def test_the_page_escapes_what_it_shows(accept: ModuleType) -> None:
    samples = [{"minute": float(at), "frames_per_s": at, "resident_mb": 5.0, "temperature_c": None} for at in range(3)]
    section = {"name": "<b>", "state": "failed", "reason": "a & b", "figures": {"samples": samples}}
    text = accept.page({"board": "<none>", "machine": {}, "sections": [section]})
    assert "&lt;b&gt;" in text
    assert "a &amp; b" in text
    assert text.count("<svg") == 2
