"""`edgeface compare` on the default models and on INT8 versions of them, whole and broken."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import onnx
import pytest

from edgeface import Detector, load_engine
from edgeface.engines import qdq
from edgeface.engines.centre import centre
from edgeface.engines.equalize import equalize
from edgeface.engines.graph import Graph
from edgeface.engines.pictures import embedder_inputs, find_pictures, frame_inputs
from edgeface.engines.prepare import prepare
from edgeface.engines.quantize import read_tensors
from edgeface.engines.ranges import collect
from edgeface.engines.recipe import load_recipe
from edgeface.engines.store import make_manifest
from edgeface.manifest import manifest_path, read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgeface.types import ByteArray


@pytest.fixture(scope="module")
def images(photos: dict[str, ByteArray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's photographs and their mirror images, small."""
    folder = tmp_path_factory.mktemp("images")
    for name, photo in photos.items():
        shrink = 320 / max(photo.shape[:2])
        small = cv2.resize(photo, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        for side, one in (("left", small), ("right", small[:, ::-1])):
            (folder / f"{name}_{side}.png").write_bytes(cv2.imencode(".png", one)[1].tobytes())
    return folder


@pytest.fixture(scope="module")
def int8(model_home: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """INT8 files of both default models with their manifests, made on few pictures."""
    folder = tmp_path_factory.mktemp("int8")
    made = {}
    for name in ("yunet", "sface"):
        recipe, source = load_recipe(name), model_home / "models" / f"{name}.fp32.onnx"
        if name == "yunet":
            inputs = frame_inputs(recipe, find_pictures(images), max_side_px=320)[0]
        else:
            with load_engine(model_home / "models" / "yunet.fp32.onnx") as engine:
                inputs = embedder_inputs(recipe, find_pictures(images), Detector(engine))[0]
        graph = prepare(Graph(onnx.load(source)))
        names = read_tensors(graph)
        found = collect(graph, inputs, names, histogram=False)
        equal, _ = equalize(graph, {name: item.maxima for name, item in found.items()})
        bounds = {name: item.bounds("max") for name, item in collect(equal, inputs, names, histogram=False).items()}
        layers = [node.name for node in graph.weighted() if node.name not in recipe.keep_float]
        centred, ranges, _ = centre(equal, layers, bounds)
        result = qdq.insert(centred, layers, ranges)
        result.shorten()
        made[name] = write(folder, name, result, read_manifest(source))
    return made


def write(folder: Path, name: str, graph: Graph, base: Any, **changes: Any) -> Path:
    content = graph.to_bytes()
    manifest = replace(make_manifest(base, load_recipe(name), "int8", "onnxruntime", content, {}), **changes)
    path = folder / manifest.file
    path.write_bytes(content)
    manifest_path(path).write_text(manifest.to_json())
    return path


def with_broken_scale(path: Path, layer: str, factor: float, folder: Path) -> Path:
    """A copy in which the scales of one layer's INT8 weights are wrong by a factor."""
    graph = Graph(onnx.load(path))
    back = graph.producer(next(node for node in graph.nodes if node.name == layer).input[1])
    assert back is not None
    graph.constants[back.input[1]] = graph.constants[back.input[1]] * np.float32(factor)
    return write(folder, read_manifest(path).name, graph, read_manifest(path))


def test_float32_and_int8_of_the_embedder(
    with_models: Path, int8: dict[str, Path], images: Path, cli: Callable[..., Any]
) -> None:
    ran = cli("compare", "sface", int8["sface"], "--images", images, "--pictures", "8", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert (found["matched_by"], found["first"], len(found["layers"])) == ("name", None, 28)
    assert {row["precision_b"] for row in found["layers"]} == {"int8"}
    assert all(20 < row["own_db"] < 60 for row in found["layers"])
    assert min(row["output"]["gain_least"] for row in found["layers"]) < 0.3, "equalisation rescaled channels"
    assert 0.98 < found["outputs"]["cosine_mean"] < 1
    assert found["preprocessing"] == []


def test_float32_and_int8_of_the_detector(
    with_models: Path, int8: dict[str, Path], images: Path, cli: Callable[..., Any]
) -> None:
    ran = cli("compare", "yunet@fp32", int8["yunet"], "--images", images, "--max-side", "320")
    assert ran.code == 0, ran.err
    for words in ("Conv_0", "int8", "matched by name", "no layer has a channel below 15 dB", "recall", "12 pictures"):
        assert words in ran.out


@pytest.mark.parametrize(("name", "layer", "factor"), [
    pytest.param("sface", "conv_7_conv2d", 0.5, marks=pytest.mark.slow), ("yunet", "Conv_22", 2.0)
])  # fmt: skip
def test_a_layer_with_broken_weight_scales_is_named(
    with_models: Path, int8: dict[str, Path], images: Path, cli: Callable[..., Any], tmp_path: Path,
    name: str, layer: str, factor: float,
) -> None:  # fmt: skip
    broken = with_broken_scale(int8[name], layer, factor, tmp_path)
    ran = cli("compare", name, broken, "--images", images, "--max-side", "320", "--pictures", "8")
    assert ran.code == 0, ran.err
    assert f"the first layer with a channel below 15 dB by its own doing is {layer}:" in ran.out


def test_swapped_colours_in_a_manifest_are_said_first(
    with_models: Path, images: Path, cli: Callable[..., Any], tmp_path: Path
) -> None:
    source = with_models / "models" / "yunet.fp32.onnx"
    manifest = read_manifest(source)
    copy = tmp_path / source.name
    shutil.copy(source, copy)
    manifest_path(copy).write_text(
        replace(manifest, preprocessing=replace(manifest.preprocessing, color="rgb")).to_json()
    )
    ran = cli("compare", "yunet", copy, "--images", images, "--max-side", "320", "--pictures", "8")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("PREPROCESSING DIFFERS: color is bgr in A and rgb in B")
    assert "every layer computes the same" in ran.out
    assert "outputs, each fed as its manifest says" in ran.out


def test_what_cannot_be_compared(with_models: Path, images: Path, cli: Callable[..., Any], tmp_path: Path) -> None:
    ran = cli("compare", "sface", "yunet", "--images", images)
    assert (ran.code, "different architectures: A is embedder sface, B is detector yunet" in ran.err) == (1, True)
    ran = cli("compare", "sface", "sface@int8", "--images", images)
    assert (ran.code, "no manifest beside the model" in ran.err) == (1, True)
    for words in (["sface@int4", "expected one of fp32"], ["nobody", "no such recipe file"]):
        ran = cli("compare", "sface", words[0], "--images", images)
        assert (ran.code, words[1] in ran.err) == (2, True), ran.err
    assert cli("compare", "sface", "sface", "--images", tmp_path / "absent").code == 2
    assert cli("compare", "sface", "sface", "--images", images, "--limit", "nan").code == 2
    (tmp_path / "empty").mkdir()
    ran = cli("compare", "sface", "sface", "--images", tmp_path / "empty")
    assert (ran.code, "no photograph" in ran.err) == (1, True)
