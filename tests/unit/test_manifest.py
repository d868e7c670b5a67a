"""Manifests: every key missing or of another type, hostile numbers and names, files that are not the described ones."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeface.errors import EngineIncompatibleError, ModelIntegrityError, ModelNotFoundError, RecipeError
from edgeface.manifest import (
    ARCFACE_112,
    Manifest,
    OperatingPoint,
    Preprocessing,
    Thresholds,
    check_file,
    manifest_path,
    parse_manifest,
    read_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOOD = Manifest(
    name="tones", model_id="tones@00/fp32", file="tones.fp32.onnx", sha256="0" * 64, size=12, kind="embedder",
    precision="fp32", runtime="onnxruntime", licence="MIT", source="a test", input_name="data", input_size=(112, 96),
    max_batch=4, preprocessing=Preprocessing("rgb", (127.5, 127.5, 127.5), (128.0, 128.0, 128.0)),
    outputs={"embedding": "out"}, dimension=8, template=ARCFACE_112,
    thresholds=Thresholds("a test", 100_000, (OperatingPoint(1e-2, 0.2, 0.9), OperatingPoint(1e-3, 0.3, 0.8))),
    build={"note": ["kept", 1]},
)  # fmt: skip
DOCUMENT: dict[str, Any] = json.loads(GOOD.to_json())
POINT = {"fmr": 1e-2, "similarity": 0.2, "tar": 0.9}
OPTIONAL = {"recognizability", "liveness", "build", "thresholds", "max_batch", "head", "input_size", "template"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def changed(*path: str | int, to: object) -> str:
    document: Any = copy.deepcopy(DOCUMENT)
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return json.dumps(document)


def test_a_table_of_thresholds_before_there_were_limits() -> None:
    document = json.loads(GOOD.to_json())
    table = document["thresholds"]
    del table["people"], table["limits_origin"]
    for point in table["points"]:
        del point["fmr_low"], point["fmr_high"]
    assert parse_manifest(json.dumps(document), where="m.json") == GOOD


def test_a_table_of_thresholds_with_limits() -> None:
    points = (OperatingPoint(1e-2, 0.2, 0.9, 8e-3, 1.2e-2), OperatingPoint(1e-3, 0.3, 0.8, 5e-4, 2e-3))
    limited = dataclasses.replace(GOOD, thresholds=Thresholds("a test", 100_000, points, 50, "50 people"))
    assert parse_manifest(limited.to_json(), where="m.json") == limited
    document = json.loads(limited.to_json())
    document["thresholds"]["points"][1]["fmr_high"] = 1.3e-2
    with pytest.raises(RecipeError, match="falling fmr"):
        parse_manifest(json.dumps(document), where="m.json")
    document["thresholds"]["points"][1]["fmr_high"] = 2e-3
    document["thresholds"]["limits_origin"] = ""
    with pytest.raises(RecipeError, match="limits_origin"):
        parse_manifest(json.dumps(document), where="m.json")


def test_what_is_written_is_what_is_read(detector_manifest: Callable[..., Manifest]) -> None:
    for manifest in (GOOD, detector_manifest()):
        assert parse_manifest(manifest.to_json(), where="m.json") == manifest
    assert GOOD.to_json().endswith("}\n")


def test_a_reader_ignores_keys_that_it_does_not_know() -> None:
    assert parse_manifest(json.dumps({**DOCUMENT, "colour_of_the_box": "red"}), where="m.json") == GOOD


@pytest.mark.parametrize("key", sorted(set(DOCUMENT) - {"format", "version"}))
def test_every_missing_key_is_named(key: str) -> None:
    document = {name: value for name, value in DOCUMENT.items() if name != key}
    if key in OPTIONAL - {"input_size", "template"}:
        parse_manifest(json.dumps(document), where="m.json")
        return
    with pytest.raises(RecipeError, match=rf"m\.json.*{key}"):
        parse_manifest(json.dumps(document), where="m.json")


@pytest.mark.parametrize("key", sorted(set(DOCUMENT) - {"build"}))
@pytest.mark.parametrize("value", [True, -1, 0.5, "", [], ["x"], {}, {"x": 1}, "\0", "a" * 65, 1 << 60])
def test_a_value_of_another_type_is_refused(key: str, value: object) -> None:
    text_is_free = key in {"name", "model_id", "file", "licence", "source", "input_name", "head"}
    if (text_is_free and value == "a" * 65) or (key == "head" and value == ""):
        parse_manifest(changed(key, to=value), where="m.json")
        return
    with pytest.raises(RecipeError, match=r"m\.json"):
        parse_manifest(changed(key, to=value), where="m.json")


@given(st.sampled_from(sorted(DOCUMENT)), JSON)
def test_no_value_whatever_raises_anything_else(key: str, value: object) -> None:
    try:
        parse_manifest(changed(key, to=value), where="m.json")
    except RecipeError as error:
        assert "m.json" in str(error)  # noqa: PT017 - most values are refused, a few are good


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("preprocessing", "mean"), [1, 2], "mean: expected 3 numbers"),
        (("preprocessing", "mean"), [1, 2, float("nan")], "mean: expected 3 numbers"),
        (("preprocessing", "mean"), [1, 2, 10**400], "mean: expected 3 numbers"),
        (("preprocessing", "std"), [1, 1, 0], "std: expected numbers from 1e-6 to 1e6"),
        (("preprocessing", "std"), [1, 1, -128], "std: expected numbers from 1e-6 to 1e6"),
        (("preprocessing", "std"), [1, 1, float("inf")], "std: expected 3 numbers"),
        (("preprocessing", "color"), "grb", "color: expected one of rgb, bgr"),
        (("preprocessing",), None, "expected a table"),
        (("input_size",), [112, 112.5], "input_size: expected height and width"),
        (("input_size",), [0, 112], "input_size"),
        (("input_size",), [112, 1 << 20], "input_size"),
        (("input_size",), None, "an embedder needs a fixed input_size"),
        (("outputs",), {"vector": "out"}, "an output named 'embedding'"),
        (("outputs", "embedding"), "", "a table of texts"),
        (("template",), [[1, 2]] * 4, "template: expected 5 points"),
        (("template", 0), [1, float("nan")], "template: expected 2 numbers"),
        (("dimension",), 1, "dimension: expected a whole number from 2"),
        (("sha256",), "A" * 64, "sha256: expected 64 hexadecimal digits"),
        (("thresholds", "points"), [], "expected a list of tables"),
        (("thresholds", "points", 0, "fmr"), float("nan"), "fmr: expected a number"),
        (("thresholds", "points", 1, "fmr"), 0.0, "fmr"),  # its logarithm is taken
        (("thresholds", "points", 1, "fmr"), 0.5, "falling fmr and rising similarity"),
        (("thresholds", "points", 1, "similarity"), 0.2, "falling fmr and rising similarity"),
        (("thresholds", "points", 1), "0.3", "expected a table"),
        (("thresholds", "impostor_pairs"), 0, "impostor_pairs"),
        (("thresholds", "people"), 1, "people: expected a whole number"),
        (("thresholds", "points", 0, "fmr_high"), 2e-2, "fmr_low: expected a number"),
        (("thresholds", "points", 0), {**POINT, "fmr_low": 2e-2, "fmr_high": 3e-2}, "fmr_low: expected a number from"),
        (("thresholds", "points", 0), {**POINT, "fmr_low": 0, "fmr_high": 9e-3}, "fmr_high: expected a number from"),
        (("thresholds", "points", 0), {**POINT, "fmr_low": 0, "fmr_high": 2e-2}, "at all points or at none"),
    ],
)
def test_hostile_values_are_refused_by_name(path: tuple[str | int, ...], value: object, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_manifest(changed(*path, to=value), where="m.json")


@pytest.mark.parametrize("name", ["../tones.onnx", "/etc/passwd", "a/b", "a\\b", "..", ".", "", "a\0b"])
def test_the_file_is_a_name_without_folders(name: str) -> None:
    with pytest.raises(RecipeError, match="file: expected"):
        parse_manifest(changed("file", to=name), where="m.json")


@pytest.mark.parametrize("version", [0, 2, "1", None, True, 1.5])
def test_another_version_is_refused_with_what_to_do(version: object) -> None:
    with pytest.raises(RecipeError, match=r"this edgeface reads 1; rebuild the engine or update edgeface"):
        parse_manifest(changed("version", to=version), where="m.json")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "7", '"x"', "{}", '{"format": "gallery"}', "[" * 100_000, "\ufeff{}", "1" * 5000]
)
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"not JSON|not an edgeface manifest"):
        parse_manifest(text, where="m.json")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    model = tmp_path / "tones.fp32.onnx"
    with pytest.raises(ModelNotFoundError, match=r"no manifest beside the model; `edgeface models fetch"):
        read_manifest(model)
    manifest_path(model).write_bytes(b"\xff\xfe{}")
    with pytest.raises(RecipeError, match="cannot read the manifest"):
        read_manifest(model)
    manifest_path(model).unlink()
    manifest_path(model).mkdir()
    with pytest.raises(RecipeError, match="cannot read the manifest"):
        read_manifest(model)


def test_a_model_file_is_held_against_its_checksum(tmp_path: Path) -> None:
    model = tmp_path / "tones.fp32.onnx"
    content = b"the weights"
    manifest = parse_manifest(changed("sha256", to=hashlib.sha256(content).hexdigest()), where="m.json")
    manifest = replace(manifest, file=model.name, size=len(content))
    with pytest.raises(ModelNotFoundError, match="no such model file"):
        check_file(model, manifest)
    model.write_bytes(content)
    assert check_file(model, manifest) == content
    for damaged in (content[:-1], content + b"\0", b"", b"The weights"):
        model.write_bytes(damaged)
        with pytest.raises(
            ModelIntegrityError, match=rf"got {len(damaged)} bytes.*fetch or build it again"
        ):
            check_file(model, manifest)


def test_bytes_that_are_no_file_or_another_models_are_refused(
    tmp_path: Path, embedder_manifest: Callable[..., Manifest]
) -> None:
    model = tmp_path / "tones.fp32.onnx"
    os.mkfifo(model)
    with pytest.raises(ModelIntegrityError, match="no regular file"):  # and does not wait for a writer
        check_file(model, embedder_manifest())
    model.unlink()
    model.write_bytes(b"12345")
    digest = hashlib.sha256(b"12345").hexdigest()
    with pytest.raises(ModelIntegrityError, match="expected 6 bytes, got 5 bytes"):
        check_file(model, embedder_manifest(sha256=digest, size=6))
    for other in ("other.onnx", "../tones.fp32.onnx", f"tones.fp32.{'0' * 12}.onnx"):
        with pytest.raises(EngineIncompatibleError, match="move both files together"):
            check_file(model, embedder_manifest(sha256=digest, size=5, file=other))
