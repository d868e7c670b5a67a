"""`edgeface eval pairs`, from photographs to figures; with a customer's embedder too; and all of LFW where it is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeface import FaceRecognizer
from edgeface.engines.recipe import load_recipe
from edgeface.errors import ConfigurationError
from edgeface.home import model_path
from edgeface.tools.demo import demo_photo

if TYPE_CHECKING:
    from collections.abc import Callable

    Cli = Callable[..., Any]

PHOTOS = {
    "Emmanuel_Macron": ("emmanuel_macron_2014", "emmanuel_macron_2025"),
    "Jacinda_Ardern": ("jacinda_ardern_2018", "jacinda_ardern_2022"),
    "Barack_Obama": ("barack_obama_2005",),
    "Rishi_Sunak": ("rishi_sunak_2020",),
}
PAIRS = (
    "2\t1\n"
    "Emmanuel_Macron\t1\t2\nEmmanuel_Macron\t1\tBarack_Obama\t1\n"
    "Jacinda_Ardern\t1\t2\nJacinda_Ardern\t2\tRishi_Sunak\t1\n"
)
KEYS = {
    "accuracy_mean",
    "accuracy_std",
    "pairs_tar",
    "all_pairs_tar",
    "rank1",
    "photos",
    "failures_to_detect",
    "stages_ms",
}
RATES = ["1e-2", "1e-3", "1e-4", "1e-5", "1e-6"]


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """The options for two folds of one pair of each kind, made of the demo's photographs."""
    for person, names in PHOTOS.items():
        folder = tmp_path / "images" / person
        folder.mkdir(parents=True)
        for number, name in enumerate(names, 1):
            shutil.copy(demo_photo(f"{name}.jpg"), folder / f"{person}_{number:04d}.jpg")
    (tmp_path / "pairs.txt").write_text(PAIRS)
    return ["eval", "pairs", "--images", str(tmp_path / "images"), "--pairs", str(tmp_path / "pairs.txt")]


def test_the_figures_and_their_keys(tiny: list[str], with_models: Path, tmp_path: Path, cli: Cli) -> None:
    kept = tmp_path / "kept.npz"
    ran = cli(*tiny, "--json", "--embeddings", kept)
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert set(result) >= KEYS
    assert (result["photos"], result["failures_to_detect"]) == (6, 0)
    # Every fold's threshold comes from the other: the widest gap of four similarities separates them.
    assert (result["accuracy_mean"], result["accuracy_std"]) == (100.0, 0.0)
    assert result["rank1"] == 1.0
    for table in ("pairs_tar", "all_pairs_tar"):
        assert list(result[table]) == RATES
        for point in result[table].values():
            assert point["tar"] == 1.0
            assert 0 < point["similarity"] < 0.3
            assert point["supported"] is False
    assert (result["genuine_pairs"], result["impostor_pairs"]) == (2, 13)
    for stage in ("detect", "align", "embed"):
        assert 0 < result["stages_ms"][stage]["median"] <= result["stages_ms"][stage]["p99"]
    with np.load(kept, allow_pickle=False) as stored:
        names, rows = stored["names"], stored["E"]
    assert names[0] == "Barack_Obama/Barack_Obama_0001"
    assert rows.shape == (6, 128)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    # The figures are those of the vectors.
    row = {str(name).rsplit("/", 1)[1]: vector for name, vector in zip(names, rows, strict=True)}
    impostor = float(row["Emmanuel_Macron_0001"] @ row["Barack_Obama_0001"])
    other = float(row["Jacinda_Ardern_0002"] @ row["Rishi_Sunak_0001"])
    assert result["pairs_tar"]["1e-2"]["similarity"] == pytest.approx(max(impostor, other), abs=1e-6)
    assert kept.stat().st_mode & 0o777 == 0o600


def test_as_a_table(tiny: list[str], with_models: Path, cli: Cli) -> None:
    ran = cli(*tiny, "--threads", "1")
    assert ran.code == 0, ran.err
    for words in (
        "accuracy 100.00 % +- 0.00",
        "6 photographs, 0 without a face",
        "fewer than 10 pairs",
        "p99",
        "1 thread",
    ):
        assert words in ran.out


def test_failures_are_counted_not_hidden(tiny: list[str], with_models: Path, tmp_path: Path, cli: Cli) -> None:
    """A file that is no picture is a failure to acquire: its pair is lost, and the report names it."""
    broken = tmp_path / "images/Emmanuel_Macron/Emmanuel_Macron_0002.jpg"
    broken.write_bytes(b"no picture")
    ran = cli(*tiny, "--json")
    assert ran.code == 0
    result = json.loads(ran.out)
    assert result["failures_to_detect"] == 1
    assert list(result["unreadable"]) == [str(broken)]
    assert result["pairs_tar"]["1e-2"]["tar"] == 0.5


def test_wrong_input_is_one_clear_error(tiny: list[str], with_models: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "images/Barack_Obama/Barack_Obama_0001.jpg").unlink()
    ran = cli(*tiny)
    assert ran.code == 1
    assert "1 of 6 photographs" in ran.err
    assert "Barack_Obama_0001.jpg" in ran.err
    ran = cli(*tiny, "--recipe", "retinaface")
    assert ran.code == 2
    assert "shipped recipes are sface, yunet" in ran.err
    (tmp_path / "pairs.txt").write_text("2\t7\n")
    ran = cli(*tiny)
    assert ran.code == 1
    assert "line 1 says 2 x 2 x 7 pairs, the file has 0" in ran.err


def test_embeddings_that_cannot_be_written_are_one_clear_error_before_the_work(
    tiny: list[str], with_models: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeface.engines.embed_photos.embed_photos", lambda *_, **__: pytest.fail("it has begun"))
    ran = cli(*tiny, "--embeddings", tmp_path / "pairs.txt" / "kept.npz")
    assert ran.code == 1
    assert "cannot write the embeddings" in ran.err


MODELS = os.environ.get("EDGEFACE_TEST_MODELS", "")
CUSTOMER = Path(MODELS, "mobilefacenet_msceleb.onnx")


@pytest.fixture
def customer(tmp_path: Path, model_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A customer's recipe, as documented, and a model folder of this test's own."""
    if not MODELS:
        pytest.skip("EDGEFACE_TEST_MODELS is not set: the folder with mobilefacenet_msceleb.onnx")
    text = (Path(__file__).parent.parent.parent / "docs/formats/recipe.md").read_text(encoding="utf-8")
    recipe = text.split("```toml\n", 1)[1].split("```", 1)[0]
    path = tmp_path / "own" / "customer.toml"
    path.parent.mkdir()
    path.write_text(recipe)
    shutil.copy(CUSTOMER, path.with_name("mobilefacenet.onnx"))
    home = tmp_path / "home"
    shutil.copytree(model_home / "models", home / "models", symlinks=True)
    monkeypatch.setenv("EDGEFACE_HOME", str(home))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return path


def test_a_customers_embedder_works_by_its_recipe_alone(
    customer: Path, tiny: list[str], tmp_path: Path, cli: Cli, photos: dict[str, Any]
) -> None:
    """Other preprocessing, a fixed batch of one, no code."""
    ran = cli(*tiny, "--recipe", customer, "--json")
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert (result["model"], result["precision"]) == (load_recipe(customer).model_id(), "fp32")
    assert (result["accuracy_mean"], result["rank1"], result["failures_to_detect"]) == (100.0, 1.0, 0)
    assert load_recipe(customer).max_batch == 1
    for embedder in ("customer", model_path("customer")):
        with FaceRecognizer.open(tmp_path / "own.gallery", embedder=embedder, threshold=0.4) as recognizer:
            recognizer.enroll("Jacinda", photos["jacinda_ardern_2018"])
            height = 600
            both = np.hstack([photos[name][:height, :400] for name in ("jacinda_ardern_2022", "rishi_sunak_2020")])
            assert [one.name for one in recognizer.recognize(photos["jacinda_ardern_2022"])] == ["Jacinda"]
            people = recognizer.recognize(both)  # two faces through an engine that takes one at a time
            assert len(people) == 2
            assert recognizer.policy.fmr is None
    with pytest.raises(ConfigurationError, match="no measured operating points"):
        FaceRecognizer.open(tmp_path / "own.gallery", embedder="customer")
    options = ["--gallery", str(tmp_path / "own.gallery"), "--embedder", "customer", "--threshold", "0.4", "--json"]
    ran = cli("identify", *options, demo_photo("jacinda_ardern_2022.jpg"))
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["photos"][0]["faces"][0]["name"] == "Jacinda"


def test_a_customers_model_that_is_another_is_refused(customer: Path, tiny: list[str], cli: Cli) -> None:
    model = customer.with_name("mobilefacenet.onnx")
    content = model.read_bytes()
    text = customer.read_text()
    for change, said in (
        (lambda: model.write_bytes(content[:-1]), "the published file is not the pinned one"),
        (model.unlink, "cannot read its source file"),
        (
            lambda: (model.write_bytes(content), customer.write_text(text.replace("input0", "image"))),
            "expected one input",
        ),
        (lambda: customer.write_text(text.replace("dimension = 128", "dimension = 512")), "(N, 512)"),
    ):
        change()
        ran = cli(*tiny, "--recipe", customer)
        assert ran.code == 1
        (line,) = (line for line in ran.err.splitlines() if line.startswith("edgeface: "))
        assert said in line
        assert not model_path("customer").exists()


LFW = os.environ.get("EDGEFACE_LFW", "")
needs_lfw = pytest.mark.skipif(not LFW, reason="EDGEFACE_LFW is not set: the folder with images/ and pairs.txt")


def lfw_options() -> list[str]:
    return ["eval", "pairs", "--images", f"{LFW}/images", "--pairs", f"{LFW}/pairs.txt", "--json"]


@pytest.mark.slow
@needs_lfw
def test_lfw_and_a_run_that_was_killed(tmp_path: Path, with_models: Path, edgeface: Cli) -> None:
    """What edgeface promises on LFW; and a run that is killed and resumed gives the identical result."""
    kept = tmp_path / "resumed.npz"
    command = [sys.executable, "-m", "edgeface.tools", *lfw_options(), "--embeddings", str(kept)]
    unfinished = with_models / "unfinished"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 300
        while not any(unfinished.glob("*.npz")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        assert process.poll() is None, "the run ended before its first checkpoint"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert any(unfinished.glob("*.npz"))
    assert not kept.exists()
    resumed = edgeface(*lfw_options(), "--embeddings", kept, timeout_s=1800)
    assert resumed.code == 0, resumed.err
    assert not any(unfinished.glob("*.npz"))
    whole_file = tmp_path / "whole.npz"
    whole = edgeface(*lfw_options(), "--fresh", "--embeddings", whole_file, timeout_s=1800)
    assert whole.code == 0, whole.err
    result, again = json.loads(whole.out), json.loads(resumed.out)
    assert result["accuracy_mean"] >= 99.2
    assert result["failures_to_detect"] == 0
    assert result["unreadable"] == {}
    assert result["all_pairs_tar"]["1e-3"]["tar"] >= 0.985
    for document in (result, again):
        del document["stages_ms"]
    assert again == result
    with np.load(kept) as one, np.load(whole_file) as other:
        assert np.array_equal(one["names"], other["names"])
        assert np.array_equal(one["E"], other["E"])
