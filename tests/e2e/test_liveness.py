"""A customer's liveness model, from the recipe file to decisions: fetch, watch, identify, eval, and what is refused.

The models are tiny networks made here (tests/fakes/pad_models.py): they tell light from dark and sharp from blurred.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from pad_models import BRIGHTNESS_TABLE, DETAIL_TABLE, brightness, detail, write_recipe

from edgeface import Detector, FaceRecognizer, Liveness, LivenessDetector, load_engine
from edgeface.engines import models
from edgeface.engines.recipe import load_recipe
from edgeface.errors import EngineIncompatibleError, InferenceError, ModelError, ModelNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edgeface.types import ByteArray


@pytest.fixture
def own_home(model_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder of this test's own, with the default models and no package index."""
    folder = tmp_path / "home"
    (folder / "models").mkdir(parents=True)
    for path in (model_home / "models").iterdir():
        (folder / "models" / path.name).symlink_to(path)
    monkeypatch.setenv("EDGEFACE_HOME", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


@pytest.fixture
def bright(own_home: Path, tmp_path: Path) -> Path:
    """The recipe of the model that calls light pictures live; stored as `pad`."""
    recipe = write_recipe(tmp_path / "customer", brightness(), size_px=32, liveness=BRIGHTNESS_TABLE)
    models.fetch(load_recipe(recipe))
    return recipe


@pytest.fixture
def gallery(own_home: Path, tmp_path: Path, photos: dict[str, ByteArray]) -> Path:
    path = tmp_path / "w.gallery"
    with FaceRecognizer.open(path) as recognizer:
        recognizer.enroll("Emmanuel", photos["emmanuel_macron_2014"])
    return path


def clip(path: Path, photo: ByteArray, gain: float) -> Path:
    """A second of a portrait, lightened or darkened."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (320, 400))
    portrait = cv2.resize(photo, (300, 400)).astype(np.float32)
    for step in range(20):
        frame = np.full((400, 320, 3), 128 * gain, np.float32)
        frame[:, step % 4 : step % 4 + 300] = portrait * gain
        writer.write(np.clip(frame, 0, 255).astype(np.uint8))
    writer.release()
    return path


def test_a_customers_model_is_a_recipe_file(cli: Callable[..., Any], own_home: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "customer", brightness(), size_px=32, liveness=BRIGHTNESS_TABLE)
    ran = cli("models", "fetch", recipe)
    assert ran.code == 0, ran.err
    stored = own_home / "models" / "pad.fp32.onnx"
    assert str(stored) in ran.out
    assert cli("models", "verify", recipe).code == 0
    shown = json.loads(cli("inspect", stored, "--json").out)
    assert (shown["kind"], shown["liveness"]["live"]) == ("liveness", "bright")
    # An edited threshold needs no new file, only a new manifest.
    recipe.write_text(recipe.read_text().replace("live_from = 0.8", "live_from = 0.7"))
    assert cli("models", "verify", recipe).code == 1
    assert cli("models", "fetch", recipe).code == 0
    with load_engine(stored) as engine:
        assert LivenessDetector(engine).spec.live_from == 0.7


def test_scores_are_computed_from_the_pixels(bright: Path, own_home: Path, recognizer: FaceRecognizer) -> None:
    with load_engine(own_home / "models" / "pad.fp32.onnx") as engine:
        judge = LivenessDetector(engine)
        for level in (60, 120, 127.5, 140, 200):
            frame = np.full((200, 200, 3), round(level), np.uint8)
            expected = 1 / (1 + np.exp(-0.1 * (round(level) - 127.5)))  # the softmax of logits -/+ slope * (x - m) / 2
            assert judge.scores(frame, [60, 60, 120, 140])[0] == pytest.approx(expected, abs=1e-4)


def test_watch_announces_nobody_before_live(
    cli: Callable[..., Any], bright: Path, gallery: Path, tmp_path: Path, photos: dict[str, ByteArray]
) -> None:
    photo = photos["emmanuel_macron_2025"]
    seen = {}
    for name, gain in (("light", 2.0), ("dark", 0.45)):
        ran = cli("watch", clip(tmp_path / f"{name}.avi", photo, gain), "--gallery", gallery, "--liveness", "pad")
        assert ran.code == 0, ran.err
        seen[name] = [json.loads(line) for line in ran.out.splitlines()]
        assert "looks for liveness" in ran.err
    assert [(e["event"], e.get("liveness")) for e in seen["light"]] == [("arrived", "live"), ("left", None)]
    assert [(e["event"], e["liveness"]) for e in seen["dark"]] == [("spoof", "spoof")]
    assert "name" not in seen["dark"][0]
    ran = cli("watch", tmp_path / "dark.avi", "--gallery", gallery, "--liveness", "pad", "--no-require-live")
    first = json.loads(ran.out.splitlines()[0])
    assert (first["event"], first["name"], first["liveness"]) == ("arrived", "Emmanuel", "unsure")


def test_identify_says_it_of_every_face(
    cli: Callable[..., Any], bright: Path, gallery: Path, tmp_path: Path, photos: dict[str, ByteArray]
) -> None:
    for name, gain in (("light", 2.0), ("dark", 0.45)):
        lit = np.clip(photos["emmanuel_macron_2025"] * gain, 0, 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"{name}.png"), lit)
    words = ("identify", tmp_path / "light.png", tmp_path / "dark.png", "--gallery", gallery)
    found = json.loads(cli(*words, "--liveness", "pad", "--json").out)["photos"]
    assert [photo["faces"][0]["liveness"] for photo in found] == ["live", "spoof"]
    assert [photo["faces"][0]["name"] for photo in found] == ["Emmanuel", "Emmanuel"]  # who, and whether live: apart
    assert found[0]["faces"][0]["liveness_score"] > 0.8 > 0.4 > found[1]["faces"][0]["liveness_score"]
    assert found[0]["stages_ms"]["liveness"] > 0
    assert "spoof" in cli(*words, "--liveness", "pad").out
    assert "liveness" not in cli(*words).out
    assert json.loads(cli(*words, "--json").out)["photos"][0]["faces"][0]["liveness"] is None


def test_the_recogniser_opens_reloads_and_closes_it(
    bright: Path, gallery: Path, own_home: Path, photos: dict[str, ByteArray]
) -> None:
    light = np.clip(photos["emmanuel_macron_2025"] * 2.0, 0, 255).astype(np.uint8)
    stored = own_home / "models" / "pad.fp32.onnx"
    for model in ("pad", stored):
        with FaceRecognizer.open(gallery, liveness=model) as recognizer:
            (person,) = recognizer.recognize(light)
            assert (person.name, person.liveness) == ("Emmanuel", Liveness.LIVE)
            assert recognizer.runtimes["liveness"].runtime == "onnxruntime"
            recognizer.reload()
            assert recognizer.recognize(light)[0].liveness_score == person.liveness_score
            (each,) = recognizer.recognize_each([light])
            assert each[0].liveness is Liveness.LIVE
    with FaceRecognizer.open(gallery, liveness="pad") as recognizer:
        bright.write_text(bright.read_text().replace("scale = 1.5", "scale = 2.5"))
        models.ensure([load_recipe(bright)])
        with pytest.raises(EngineIncompatibleError, match="liveness was"):
            recognizer.reload()


def test_without_a_model_nothing_starts(
    cli: Callable[..., Any], own_home: Path, gallery: Path, tmp_path: Path, photos: dict[str, ByteArray]
) -> None:
    film = clip(tmp_path / "c.avi", photos["emmanuel_macron_2025"], 1.0)
    photo = tmp_path / "p.png"
    cv2.imwrite(str(photo), photos["emmanuel_macron_2025"])
    for command, source in (("watch", film), ("identify", photo)):
        ran = cli(command, source, "--gallery", gallery, "--liveness", "pad")
        assert (ran.code, ran.out) == (1, "")
        assert "model 'pad' at precision 'fp32' is not there" in ran.err
        assert "edgeface models fetch RECIPE_FILE" in ran.err
        ran = cli(command, source, "--gallery", gallery, "--liveness", tmp_path / "no.onnx")
        assert (ran.code, ran.out) == (1, "")
        assert "no manifest beside the model" in ran.err
        ran = cli(command, source, "--gallery", gallery, "--liveness", "sface")
        assert (ran.code, ran.out) == (1, "")
        assert "sface: expected a liveness model, got kind 'embedder'" in ran.err
        assert cli(command, source, "--gallery", gallery, "--liveness", "").code == 1
    ran = cli("watch", film, "--gallery", gallery, "--require-live")
    assert (ran.code, ran.out) == (2, "")
    assert "--require-live needs --liveness MODEL" in ran.err
    with pytest.raises(ModelNotFoundError, match="'pad'"):
        FaceRecognizer.open(gallery, liveness="pad")


def test_a_damaged_model_is_refused(bright: Path, gallery: Path, own_home: Path) -> None:
    stored = own_home / "models" / "pad.fp32.onnx"
    content = stored.read_bytes()
    for damaged in (content[:-1], b"", content[:40] + b"\0" + content[41:]):
        stored.write_bytes(damaged)
        with pytest.raises(ModelError, match="fetch or build it again"):
            FaceRecognizer.open(gallery, liveness="pad")


def test_a_liveness_model_is_not_quantised(cli: Callable[..., Any], bright: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    pictures = tmp_path / "pictures"
    for words in (("build", bright, "--calibration", pictures),
                  ("bench", "quantisation", "--model", bright, "--images", pictures)):  # fmt: skip
        ran = cli(*words)
        assert ran.code == 1
        assert "pad: a liveness model is not quantised: only attacks of your own" in ran.err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('classes = ["dark", "bright"]', 'classes = ["dark", "bright", "odd"]', r"shape \(N, 3\): logits of dark"),
        ('meaning = "logits"', 'meaning = "logit"', r"expected scores of shape \(N, 1\): logit of dark, bright"),
        ('scores = "out"', 'scores = "o"', "the file has no output 'o'"),
        ("size = [32, 32]", "size = [64, 64]", r"expected an input of shape \(N, 3, 64, 64\)"),
    ],
)
def test_a_recipe_that_is_not_of_the_file_is_refused(
    own_home: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    recipe = write_recipe(tmp_path / "customer", brightness(), size_px=32, liveness=BRIGHTNESS_TABLE)
    assert old in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(old, new))
    with pytest.raises(ModelError, match=said):
        models.fetch(load_recipe(recipe))
    assert not (own_home / "models" / "pad.fp32.onnx").exists()


def test_outputs_against_the_manifest_fail_at_the_start(own_home: Path, gallery: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "customer", brightness(), size_px=32, liveness=BRIGHTNESS_TABLE)
    recipe.write_text(recipe.read_text().replace('meaning = "logits"', 'meaning = "probabilities"'))
    models.fetch(load_recipe(recipe))
    with pytest.raises(InferenceError, match="if these are logits, say so in the recipe"):
        FaceRecognizer.open(gallery, liveness="pad")


@pytest.fixture
def attacks(tmp_path: Path, photos: dict[str, ByteArray]) -> Path:
    """30 sharp photographs of six people; 30 blurred by much, 30 by little, and some of no face among these."""
    folder = tmp_path / "pictures"
    random = np.random.default_rng(1)
    for number in range(30):
        name = sorted(photos)[number % 6]
        photo = cv2.resize(photos[name], (150, 200), interpolation=cv2.INTER_AREA)
        shifted = np.roll(photo, (int(random.integers(8)), int(random.integers(8))), (0, 1))
        pictures = {
            f"bona_fide/{name}": shifted,
            f"attack_print/{name}": cv2.GaussianBlur(shifted, (0, 0), 3.0),
            "attack_screen": cv2.GaussianBlur(shifted, (0, 0), 0.4) if number >= 3 else np.zeros_like(shifted),
        }
        for kind, picture in pictures.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / kind / f"{number:02d}.png"), picture)
    return folder


def test_eval_liveness_counts_what_the_model_really_says(
    cli: Callable[..., Any], own_home: Path, tmp_path: Path, attacks: Path
) -> None:
    recipe = write_recipe(tmp_path / "c", detail(4.5, 2.0), name="sharp", size_px=64, liveness=DETAIL_TABLE)
    assert cli("models", "fetch", recipe).code == 0
    ran = cli("eval", "liveness", "--images", attacks, "--model", "sharp", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    # Counted again, by another path: the parts of the SDK one by one.
    counted: dict[str, list[float]] = {}
    folder = own_home / "models"
    with load_engine(folder / "sharp.fp32.onnx") as engine, load_engine(folder / "yunet.fp32.onnx") as finding:
        judge, finder = LivenessDetector(engine), Detector(finding)
        for path in sorted(attacks.rglob("*.png")):
            frame = np.asarray(cv2.imread(str(path)), np.uint8)
            faces = finder.detect(frame)
            score = float(judge.scores(frame, faces.boxes)[0]) if len(faces) else float("nan")
            counted.setdefault(path.relative_to(attacks).parts[0], []).append(score)
    for kind, scores in counted.items():
        known = np.array(scores)[~np.isnan(scores)]
        row = found["bona_fide"] if kind == "bona_fide" else found["attacks"][kind]
        error, silent = ("bpcer", "bpnrr") if kind == "bona_fide" else ("apcer", "apnrr")
        wrong = known < 0.6 if kind == "bona_fide" else known >= 0.6
        assert (row[error]["errors"], row[error]["count"]) == (int(wrong.sum()), len(known)), kind
        assert row[silent]["errors"] == 30 - len(known)
        assert row[error]["low"] <= row[error]["rate"] <= row[error]["high"]
    assert found["bona_fide"]["bpcer"]["rate"] < 0.5
    assert found["attacks"]["attack_print"]["apcer"]["errors"] == 0  # strong blur is told from a photograph
    assert found["attacks"]["attack_print"]["apcer"]["subjects"] == 6
    assert found["attacks"]["attack_screen"]["apnrr"]["errors"] == 3
    assert found["worst"]["kind"] == "attack_screen"  # a little blur is not
    assert found["bpcer_at_apcer"][0]["why"].endswith("200 are needed")
    table = cli("eval", "liveness", "--images", attacks, "--model", "sharp").out
    assert "worst APCER" in table
    assert "not supported: attack_print has 30 pictures with a face" in table


def test_eval_liveness_refuses_what_says_nothing(
    cli: Callable[..., Any], bright: Path, tmp_path: Path, attacks: Path
) -> None:
    def refused(said: str) -> None:
        ran = cli("eval", "liveness", "--images", attacks, "--model", "pad", "--json")
        assert (ran.code, ran.out) == (1, "")
        assert said in ran.err

    picture = next((attacks / "attack_screen").iterdir())
    picture.unlink()
    refused("expected 30 readable pictures or more of every kind; attack_screen has 29")
    picture.write_bytes(b"no picture")
    refused("attack_screen has 29")
    cv2.imwrite(str(picture), np.zeros((64, 64, 3), np.uint8))
    (attacks / "atack_mask").mkdir()
    refused("and no others; got atack_mask, attack_print")
    (attacks / "atack_mask").rmdir()
    (attacks / "bona_fide").rename(attacks / "attack_bona")
    refused("expected the folders bona_fide and attack_KIND")
    assert "no such folder" in cli("eval", "liveness", "--images", tmp_path / "no", "--model", "pad").err
