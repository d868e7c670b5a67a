"""`edgeface build` from pictures to an engine that loads or a refusal that leaves nothing, on a made-up embedder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from build_bench import EACH, SIDE, Bench
from onnx import helper

from edgeface import load_engine
from edgeface.contents import content_path
from edgeface.engines import models, qdq, quantize
from edgeface.engines.build import build
from edgeface.engines.intake import read_network
from edgeface.engines.judge import EmbedderJudge, engine_run, graph_run
from edgeface.engines.material import gather
from edgeface.engines.prepare import prepare
from edgeface.errors import BuildError, GateError, InputError, ModelNotFoundError
from edgeface.home import model_path
from edgeface.manifest import read_manifest
from edgeface.tools.bench.quantisation import _model_rows


def test_an_engine_that_loads_runs_and_says_what_it_is(bench: Bench) -> None:
    built = build(bench.recipe, bench.options)
    assert built.path.name == "made.int8.onnx"
    assert (built.precision, built.document["passed"], built.document["int8_share"]) == ("int8", True, 1.0)
    with load_engine(built.path) as engine, load_engine(model_path("made")) as reference:
        manifest = engine.manifest
        assert (manifest.precision, manifest.runtime, manifest.model_id) == (
            "int8",
            "onnxruntime",
            bench.recipe.model_id("int8"),
        )
        assert manifest.build["pictures"]["calibration_people"] == 20
        assert manifest.build["accuracy"]["cosine_mean"] >= 0.99
        tensor = np.random.default_rng(0).normal(size=(3, 3, SIDE, SIDE)).astype(np.float32)
        a, b = engine.run(tensor)["embedding"], reference.run(tensor)["embedding"]
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.97
        assert not np.array_equal(a, b)
    names = sorted(path.name for path in built.path.parent.iterdir())
    content = f"made.int8.{manifest.sha256[:12]}.onnx"
    assert names == [content, "made.int8.onnx", "made.int8.onnx.json", "made.int8.report.html", "made.int8.report.json"]
    assert built.path.readlink().name == content, "the model's own name leads to the bytes, for trtexec and people"
    report = json.loads((built.path.parent / "made.int8.report.json").read_text())
    assert [row["precision"] for row in report["layers"]] == ["int8"] * 5
    assert all(row["error_db"] > 15 for row in report["layers"])
    page = (built.path.parent / "made.int8.report.html").read_text()
    titles = ("Cosine of each embedding", "Similarities of pairs", "Signal to error", "Ranges of the layers")
    assert all(title in page for title in titles)
    assert page.count("<svg") >= len(titles)
    assert str(bench.crops) not in page + json.dumps(report), "a report is passed around: no folder of the maker's"


def test_same_inputs_same_bytes_and_nothing_is_built_twice(bench: Bench) -> None:
    first = build(bench.recipe, bench.options)
    content = content_path(first.path, read_manifest(first.path))
    bytes_before = content.read_bytes()
    assert build(bench.recipe, bench.options).up_to_date
    again = build(bench.recipe, replace(bench.options, force=True))
    assert not again.up_to_date
    assert content.read_bytes() == bytes_before
    content.write_bytes(bytes_before[:-1])  # damaged: no longer up to date
    assert not build(bench.recipe, bench.options).up_to_date
    assert content.read_bytes() == bytes_before
    extra = bench.crops / "p00" / "p00_0001.png"
    extra.write_bytes((bench.crops / "p01" / "p01_0001.jpg").read_bytes())
    assert not build(bench.recipe, bench.options).up_to_date, "one picture changed"


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_float_precisions(bench: Bench, precision: Any) -> None:
    built = build(bench.recipe, replace(bench.options, precision=precision))
    assert built.path.name == f"made.{precision}.onnx"
    assert built.document["figures"]["cosine_min"] > (0.9999999 if precision == "fp32" else 0.9999)


def test_a_broken_scale_in_one_layer_is_refused_and_nothing_written(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = qdq.weight_scales
    calls = []

    def broken(weight: Any, axis: int) -> Any:
        calls.append(axis)
        return honest(weight, axis) * (0.25 if len(calls) % 5 == 3 else 1.0)

    monkeypatch.setattr(qdq, "weight_scales", broken)
    old = bench.options.out
    assert old is not None
    old.mkdir()
    (old / "made.int8.onnx").write_text("the old engine")
    with pytest.raises(GateError, match=r"int8 fails the recipe's limits: cosine_mean .* No engine was written"):
        build(bench.recipe, replace(bench.options, precision="int8"))
    assert sorted(p.name for p in old.iterdir()) == ["made.int8.onnx", "made.int8.report.html", "made.int8.report.json"]
    assert (old / "made.int8.onnx").read_text() == "the old engine"
    assert "FAILED" in (old / "made.int8.report.html").read_text()


def test_min_max_of_strong_outliers_grows_the_mixed_plan(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer with a range ten times too wide: the plan leaves that layer in float, and only few others."""
    honest = qdq.insert

    def wide(graph: Any, layers: Any, ranges: Any, **options: Any) -> Any:
        second = graph.weighted()[2].input[0]
        return honest(graph, layers, {**ranges, second: ranges[second] * 16}, **options)

    monkeypatch.setattr(qdq, "insert", wide)
    built = build(bench.recipe, bench.options)
    assert built.precision == "mixed"
    assert built.path.name == "made.int8.onnx", "under the name that was asked for"
    with load_engine(built.path) as engine:
        assert engine.manifest.precision == "mixed"
        assert engine.manifest.model_id == bench.recipe.model_id("int8"), "what was asked for"
    assert built.document["float_layers"][0] == "conv_4"
    assert len(built.document["float_layers"]) <= 2
    assert not built.document["attempts"][0]["passed"]
    assert built.document["sensitivities"][0]["layer"] == "conv_4"


def test_swapped_colours_and_a_broken_calibration_fail_the_gate(bench: Bench, pixels: Any) -> None:
    recipe = bench.recipe
    network = read_network(models.load_stored(recipe), recipe)
    material = gather(recipe, bench.crops, count=80, most_held_out=200)
    judge = EmbedderJudge(recipe, graph_run(recipe, network), material)
    good = judge.measure(graph_run(recipe, network), int8_share=1.0, quantised=True)
    assert good.passed

    def swapped(tensors: Any) -> Any:
        return graph_run(recipe, network)(np.ascontiguousarray(tensors[:][:, ::-1]))

    assert not judge.measure(swapped, int8_share=1.0, quantised=True).passed
    noise = material.calibration.part(0, 40)
    noise.pictures = np.full_like(noise.pictures, 120)  # grey pictures instead of faces
    prepared = prepare(network)
    wrong = quantize.quantize(prepared, noise, lambda a, b: 0.0, recipe=recipe)
    assert not judge.measure(graph_run(recipe, wrong.graph), int8_share=1.0, quantised=True).passed


def test_the_file_and_the_simulation_agree(bench: Bench) -> None:
    built = build(bench.recipe, bench.options)
    from edgeface.engines.graph import Graph

    tensors = np.random.default_rng(1).normal(size=(16, 3, SIDE, SIDE)).astype(np.float32)
    file = content_path(built.path, read_manifest(built.path))
    exact = graph_run(bench.recipe, Graph(onnx.load(file)))(tensors)["embedding"]
    with load_engine(built.path) as engine:
        run = engine_run(engine)(tensors)["embedding"]
    cosines = (exact * run).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(run, axis=1)
    assert cosines.min() > 0.995


def test_the_table_beside_other_quantisers_shows_the_file_that_a_build_writes(bench: Bench) -> None:
    file = build(bench.recipe, bench.options).document["file"]
    material = gather(bench.recipe, bench.crops, count=bench.options.pictures, most_held_out=bench.options.held_out)
    ours = next(_model_rows(bench.recipe, material, None))
    assert ours.size_ratio == file["bytes"] / file["fp32_bytes"]


def test_pictures_that_will_not_do(bench: Bench, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match=r"file/out: cannot be written to: .*Not a directory: '.*/file'"):
        build(bench.recipe, replace(bench.options, out=tmp_path / "file" / "out"))
    for place in ("/proc/edgeface/out", tmp_path / ("x" * 300)):  # both told before the pictures are read
        with pytest.raises(BuildError, match=r"cannot be written to: .*; choose another --out"):
            build(bench.recipe, replace(bench.options, out=Path(place), calibration=empty))
    with pytest.raises(InputError, match="no photograph"):
        build(bench.recipe, replace(bench.options, calibration=empty))
    few = tmp_path / "few"
    for person in range(5):
        (few / f"q{person}").mkdir(parents=True)
        (few / f"q{person}" / "1.png").write_bytes(
            (bench.crops / f"p{person:02d}" / f"p{person:02d}_0001.jpg").read_bytes()
        )
    with pytest.raises(BuildError, match="2 usable calibration pictures, at least 32"):
        build(bench.recipe, replace(bench.options, calibration=few))
    same = tmp_path / "same"
    for person in range(120):
        (same / f"q{person}").mkdir(parents=True)
        (same / f"q{person}" / "1.png").write_bytes(
            (bench.crops / "p00" / f"p00_{person % EACH + 1:04d}.jpg").read_bytes()
        )
    with pytest.raises(BuildError, match=r"show 1 people as the model sees them, at least 8"):
        build(bench.recipe, replace(bench.options, calibration=same))
    photo = bench.crops / "p00" / "p00_0001.png"
    photo.write_bytes(cv2.imencode(".png", np.zeros((50, 60, 3), np.uint8))[1].tobytes())
    with pytest.raises(BuildError, match=r"60x50 px is no crop of 32x32, and there is no detector"):
        build(bench.recipe, bench.options)


def test_pairs_choose_who_is_verified_on(bench: Bench, tmp_path: Path) -> None:
    lines = (
        ["20"] + [f"p{i:02d}\t1\t2" for i in range(20, 40)] + [f"p{i:02d}\t3\tp{i - 20:02d}\t4" for i in range(20, 40)]
    )
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("\n".join(lines) + "\n")
    with pytest.raises(BuildError, match=r"at least 50 are needed to verify"):
        build(bench.recipe, replace(bench.options, pairs=pairs))
    (tmp_path / "bad.txt").write_text("1\np00\t1\t9\np00\t1\tp01\t1\n")
    with pytest.raises(InputError, match="1 of 3 photographs are absent"):
        build(bench.recipe, replace(bench.options, pairs=tmp_path / "bad.txt"))


def test_no_model_and_an_unknown_float_layer(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"no layer 'conv_99'; layers are conv_0"):
        build(replace(bench.recipe, keep_float=("conv_99",)), bench.options)
    limits = replace(bench.recipe.limits, int8_share=0.1)
    kept = build(replace(bench.recipe, keep_float=("conv_0",), limits=limits), bench.options)
    assert kept.precision == "int8"
    assert kept.document["float_layers"][0] == "conv_0"
    assert next(row for row in kept.document["layers"] if row["layer"] == "conv_0")["precision"] == "float"
    monkeypatch.setenv("EDGEFACE_HOME", str(tmp_path / "other"))
    with pytest.raises(ModelNotFoundError, match=r"run `edgeface models fetch .*made\.toml`"):
        build(bench.recipe, bench.options)


def test_a_model_that_gives_nan_is_no_embedder(bench: Bench) -> None:
    content = models.load_stored(bench.recipe)
    model = onnx.load_model_from_string(content)
    model.graph.node.append(helper.make_node("Log", ["out"], ["log"], "log"))
    model.graph.output[0].name = "log"
    recipe = replace(bench.recipe, outputs={"embedding": "log"})
    network = read_network(model.SerializeToString(), recipe)
    material = gather(recipe, bench.crops, count=80, most_held_out=200)
    with pytest.raises(BuildError, match="NaN, infinite or zero"):
        EmbedderJudge(recipe, graph_run(recipe, network), material)


def test_the_command(bench: Bench, cli: Any, tmp_path: Path) -> None:
    ran = cli("build", "--calibration", bench.crops)
    assert ran.code == 2
    assert "either recipes or --all" in ran.err
    ran = cli("build", tmp_path / "none.toml", "--calibration", bench.crops)
    assert ran.code == 2
    assert "no such recipe file" in ran.err
