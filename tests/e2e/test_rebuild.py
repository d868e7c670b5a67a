"""A gallery outlives a rebuild of its engine, whichever precision was faster that day."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from build_bench import Bench

from edgeface import FaceRecognizer
from edgeface.engines import candidates, qdq, quantize
from edgeface.engines.build import build
from edgeface.engines.race import Times
from edgeface.errors import GalleryMismatchError

if TYPE_CHECKING:
    from pathlib import Path

    from fake_jetson import Jetson


@pytest.fixture(autouse=True)
def _one_way_to_quantise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "STRENGTHS", (0.8,))
    monkeypatch.setattr(quantize, "POLICIES", ("99.9995",))


def _timed(monkeypatch: pytest.MonkeyPatch, *ms: float) -> None:
    """Let INT8 (or the mixed plan) and FP16 take so long."""

    def faked(engines: Any, shape: tuple[int, ...], **_: Any) -> list[Times]:
        assert len(engines) == len(ms)
        return [Times(shape, one, one * 0.99, one * 1.01, 60) for one in ms]

    monkeypatch.setattr(candidates, "race", faked)


def _widen(monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer with a range far too wide: INT8 fails, a mixed plan passes."""
    honest = qdq.insert

    def wide(graph: Any, layers: Any, ranges: Any, **options: Any) -> Any:
        second = graph.weighted()[2].input[0]
        return honest(graph, layers, {**ranges, second: ranges[second] * 16}, **options)

    monkeypatch.setattr(qdq, "insert", wide)


@pytest.mark.parametrize("winner", ["fp16", "mixed"])
def test_a_rebuild_with_another_winner_keeps_the_gallery(
    model_home: Path,
    bench: Bench,
    board: Jetson,
    photos: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    winner: str,
) -> None:
    photo, gallery = photos["barack_obama_2005"], tmp_path / "kiosk.gallery"
    options: dict[str, Any] = {"detector": model_home / "models" / "yunet.fp32.onnx", "embedder": "made"}
    options |= {"precision": "int8", "threshold": 0.95}
    on_board = replace(bench.options, target="tensorrt", out=None, force=True)
    _timed(monkeypatch, 0.5, 0.9)
    assert build(bench.recipe, on_board).precision == "int8"
    with FaceRecognizer.open(gallery, **options) as recognizer:
        assert recognizer.runtimes["embedder"].reason == "an engine for this machine is there"
        recognizer.enroll("ada", photo)
        if winner == "mixed":
            _widen(monkeypatch)
        else:
            _timed(monkeypatch, 0.9, 0.5)
        assert build(bench.recipe, on_board).precision == winner
        recognizer.reload()
        assert recognizer.runtimes["embedder"].reason.endswith(f"; the build for int8 gave {winner}")
        assert recognizer.recognize(photo)[0].name == "ada", "while it runs"
    with FaceRecognizer.open(gallery, **options) as recognizer:
        assert recognizer.runtimes["embedder"].runtime == "tensorrt"
        assert recognizer.recognize(photo)[0].name == "ada", "after a start"


def test_the_file_for_onnxruntime_stands_in_for_a_plan_of_another_precision(
    model_home: Path,
    bench: Bench,
    board: Jetson,
    photos: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`auto` falls back to it where the plan does not load, and a PC enrols with it for a board."""
    photo, gallery = photos["barack_obama_2005"], tmp_path / "kiosk.gallery"
    options: dict[str, Any] = {"detector": model_home / "models" / "yunet.fp32.onnx", "embedder": "made"}
    options |= {"threshold": 0.95}
    _timed(monkeypatch, 0.9, 0.5)
    assert build(bench.recipe, replace(bench.options, target="tensorrt", out=None)).precision == "fp16"
    assert build(bench.recipe, replace(bench.options, out=None)).precision == "int8"
    with FaceRecognizer.open(gallery, precision="int8", **options) as recognizer:
        assert recognizer.runtimes["embedder"].runtime == "tensorrt"
        recognizer.enroll("ada", photo)
    board.cuda.capability = (8, 9)  # an engine that no longer fits its machine
    with FaceRecognizer.open(gallery, precision="int8", **options) as recognizer:
        assert recognizer.runtimes["embedder"].runtime == "onnxruntime"
        assert recognizer.recognize(photo)[0].name == "ada"
    with pytest.raises(GalleryMismatchError, match=r"made@\w+/int8"):
        FaceRecognizer.open(gallery, precision="fp32", **options)
