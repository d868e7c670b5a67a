"""The liveness table of recipes and manifests, as docs/formats/ specifies it: written, read back, corrupted."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeface.engines.recipe import parse_recipe
from edgeface.errors import RecipeError
from edgeface.manifest import Manifest, Preprocessing, parse_manifest
from edgeface.pad import LivenessSpec

#: What this version writes, letter by letter: a reader of another language is built on it.
GOLDEN = """{
  "build": {},
  "dimension": 0,
  "file": "pad.fp32.onnx",
  "format": "edgeface-engine",
  "head": "",
  "input_name": "data",
  "input_size": [
    80,
    80
  ],
  "kind": "liveness",
  "licence": "ours",
  "liveness": {
    "classes": [
      "print",
      "live",
      "screen"
    ],
    "crop": "square",
    "live": "live",
    "live_from": 0.9,
    "meaning": "logits",
    "scale": 2.7,
    "spoof_below": 0.4
  },
  "max_batch": null,
  "model_id": "pad@00/fp32",
  "name": "pad",
  "outputs": {
    "scores": "out"
  },
  "precision": "fp32",
  "preprocessing": {
    "color": "bgr",
    "mean": [
      0.0,
      0.0,
      0.0
    ],
    "std": [
      1.0,
      1.0,
      1.0
    ]
  },
  "recognizability": null,
  "runtime": "onnxruntime",
  "sha256": "0000000000000000000000000000000000000000000000000000000000000000",
  "size": 7,
  "source": "file pad.onnx",
  "template": [],
  "thresholds": null,
  "version": 1
}
"""
MANIFEST = Manifest(
    name="pad", model_id="pad@00/fp32", file="pad.fp32.onnx", sha256="0" * 64, size=7, kind="liveness",
    precision="fp32", runtime="onnxruntime", licence="ours", source="file pad.onnx", input_name="data",
    input_size=(80, 80), max_batch=None, preprocessing=Preprocessing("bgr"), outputs={"scores": "out"},
    liveness=LivenessSpec("square", 2.7, "logits", ("print", "live", "screen"), "live", 0.9, 0.4),
)  # fmt: skip
RECIPE = """
format = "edgeface-recipe"
version = 1
name = "pad"
kind = "liveness"
licence = "ours"
[source]
file = "pad.onnx"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
[input]
name = "data"
size = [80, 80]
color = "bgr"
mean = [0, 0, 0]
std = [1, 1, 1]
[output]
scores = "out"
[liveness]
crop = "square"
scale = 2.7
meaning = "logits"
classes = ["print", "live", "screen"]
live = "live"
live_from = 0.9
spoof_below = 0.4
[card]
summary = "A test."
"""
KEYS = ("crop", "scale", "meaning", "classes", "live", "live_from", "spoof_below")
WRONG: list[tuple[str, object, str]] = [
    ("crop", "circle", "crop: expected one of square, box"),
    ("crop", True, "crop: expected one of"),
    ("scale", 0.5, "scale: expected a number from 1.0 to 10.0"),
    ("scale", float("nan"), "scale: expected a number"),
    ("scale", "2.7", "scale: expected a number"),
    ("meaning", "softmax", "meaning: expected one of logits, probabilities, logit, probability"),
    ("meaning", "logit", "one logit tells two classes apart, got 3"),
    ("classes", ["live"], "classes: expected two names or more"),
    ("classes", ["live", "live"], "each once"),
    ("classes", ["live", ""], "classes: expected a list of texts"),
    ("classes", "live", "classes: expected a list of texts"),
    ("classes", [1, 2], "classes: expected a list of texts"),
    ("live", "Live", "live: expected one of the classes print, live, screen, got 'Live'"),
    ("live", 1, "live: expected a text"),
    ("live_from", 1.5, "live_from: expected a number from 0.0 to 1.0"),
    ("live_from", 0.3, "spoof_below <= live_from"),
    ("live_from", True, "live_from: expected a number"),
    ("spoof_below", 0.0, "0 < spoof_below"),
    ("spoof_below", 10**400, "spoof_below: expected a number"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = copy.deepcopy(json.loads(GOLDEN))
    return loaded


def test_the_manifest_is_written_and_read_letter_by_letter() -> None:
    assert MANIFEST.to_json() == GOLDEN
    assert parse_manifest(GOLDEN, where="m.json") == MANIFEST


def test_the_recipe_says_the_same() -> None:
    recipe = parse_recipe(RECIPE, Path("/recipes/pad.toml"))
    assert recipe.liveness == MANIFEST.liveness
    assert (recipe.kind, recipe.head, recipe.dimension, recipe.template) == ("liveness", "", 0, ())
    assert (recipe.outputs, recipe.input_size) == ({"scores": "out"}, (80, 80))


@pytest.mark.parametrize(("key", "value", "said"), WRONG)
def test_a_wrong_value_is_refused_by_name(key: str, value: object, said: str) -> None:
    broken = document()
    broken["liveness"][key] = value
    with pytest.raises(RecipeError, match=rf"^m\.json\.liveness: .*{said}"):
        parse_manifest(json.dumps(broken), where="m.json")


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(key: str) -> None:
    broken = document()
    del broken["liveness"][key]
    with pytest.raises(RecipeError, match=rf"m\.json\.liveness: {key}: expected"):
        parse_manifest(json.dumps(broken), where="m.json")
    lines = [line for line in RECIPE.splitlines() if not line.startswith(f"{key} =")]
    with pytest.raises(RecipeError, match=rf"pad\.toml\.liveness: {key}: expected"):
        parse_recipe("\n".join(lines), Path("/recipes/pad.toml"))


@given(st.sampled_from(KEYS), JSON)
def test_no_value_whatever_raises_anything_else(key: str, value: object) -> None:
    broken = document()
    broken["liveness"][key] = value
    try:
        parse_manifest(json.dumps(broken), where="m.json")
    except RecipeError as error:
        assert "m.json.liveness" in str(error)  # noqa: PT017 - most values are refused, a few are good


@given(st.integers(0, len(GOLDEN) - 1), st.integers(0, 40), st.text(max_size=8))
def test_a_damaged_file_is_refused_or_read_as_it_stands(at: int, length: int, inserted: str) -> None:
    text = GOLDEN[:at] + inserted + GOLDEN[at + length :]
    try:
        read = parse_manifest(text, where="m.json")
    except RecipeError as error:
        assert "m.json" in str(error)  # noqa: PT017
    else:
        assert parse_manifest(read.to_json(), where="again") == read


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"liveness": None}, "expected a table 'liveness' for the kind liveness"),
        ({"input_size": None}, "a liveness model needs a fixed input_size"),
        ({"outputs": {"embedding": "out"}}, "an output named 'scores'"),
        ({"kind": "embedder", "dimension": 2, "template": [[1, 2]] * 5, "outputs": {"embedding": "out"}},
         "for the kind liveness and for no other, got 'embedder'"),
        ({"kind": "detector", "head": "yunet"}, "for the kind liveness and for no other, got 'detector'"),
        ({"liveness": []}, "expected a table"),
    ],
)  # fmt: skip
def test_kind_and_table_belong_together(change: dict[str, object], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_manifest(json.dumps({**document(), **change}), where="m.json")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[liveness]\n", "[liveness]\nscales = 2\n", "unknown key 'scales'"),
        ("size = [80, 80]", 'size = "any"', "a liveness model needs a fixed size"),
        ('scores = "out"', 'scores = "out"\ndimension = 2', "unknown key 'dimension'"),
        ('scores = "out"', 'embedding = "out"', "unknown key 'embedding'"),
        ("[card]", "[limits]\ncosine_mean = 0.9\n[card]", "unknown key 'limits'"),
        ("[card]", '[thresholds]\norigin = "x"\n[card]', "unknown key 'thresholds'"),
        ("[liveness]", "[card.liveness]", "pad.toml.liveness: expected a table"),
        ('kind = "liveness"', 'kind = "embedder"', "unknown key 'liveness'"),
    ],
)
def test_a_recipe_has_no_key_that_nobody_reads(old: str, new: str, said: str) -> None:
    assert old in RECIPE
    with pytest.raises(RecipeError, match=said):
        parse_recipe(RECIPE.replace(old, new, 1), Path("/recipes/pad.toml"))
