"""The command line as its users meet it: exit codes, JSON that programs read, photographs that cannot be read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from edgeface.photos import read_photo
from edgeface.tools.demo import demo_photo
from edgeface.tools.main import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Cli = Callable[..., Any]

MACRON = [str(demo_photo(f"emmanuel_macron_{year}.jpg")) for year in (2014, 2025)]
ARDERN = [str(demo_photo(f"jacinda_ardern_{year}.jpg")) for year in (2018, 2022)]
OBAMA = str(demo_photo("barack_obama_2005.jpg"))


@pytest.mark.parametrize("words", [["--help"], ["-h"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_every_command_has_help(words: list[str], cli: Cli) -> None:
    ran = cli(*words)
    assert ran.code == 0
    assert ran.out.startswith("Usage: ")
    assert ran.err == ""


def test_the_version_is_the_packages(edgeface: Cli) -> None:
    from edgeface import __version__

    ran = edgeface("--version")
    assert (ran.code, ran.out.split()[-1]) == (0, __version__)


@pytest.mark.parametrize(
    "words",
    [
        ["frobnicate"], ["--frobnicate"], ["detect"], ["detect", "--min-score", "2", "a.jpg"],
        ["detect", "--max-side", "31", "a.jpg"], ["verify", "a.jpg"], ["verify", "a", "b", "c"], ["enroll", "ada"],
        ["enroll", "--gallery", "g", "ada"], ["identify", "a.jpg"], ["models", "frobnicate"], ["eval", "pairs"],
        ["eval", "pairs", "--images", "x"], ["bench", "frobnicate"], ["demo", "now"], ["demo", "--threads", "0"],
        ["identify", "--gallery", "g", "--fmr", "0", "a.jpg"],
        ["identify", "--gallery", "g", "--threshold", "x", "a.jpg"],
        ["identify", "--gallery", "g", "--threshold", "nan", "a.jpg"],
        ["identify", "--gallery", "g", "--threshold", "0.4", "--fmr", "1e-4", "a.jpg"],
        ["identify", "--gallery", "g", "--fmr", "1e-4", "--fpir", "1e-2", "a.jpg"],
        ["identify", "--gallery", "g", "--precision", "int4", "a.jpg"], ["detect", "--precision", "int4", "a.jpg"],
        ["eval", "identify", "--images", "x", "--precision", "int4"],
        ["eval", "identify", "--images", ".", "--seed", "-1"],
        ["detect", "--min-score", "nan", "a.jpg"], ["verify", "--fpir", "1e-3", "a", "b"],
        ["verify", "--fmr", "nan", "a", "b"], ["watch", "0", "--gallery", "g", "--budget-ms", "nan"],
        ["enroll", "--gallery", "g", "--min-sharpness", "nan", "ada", "a.jpg"],
        ["enroll", "--gallery", "g", "", "a.jpg"], ["gallery", "remove", "--gallery", "g", " "],
        ["gallery", "rename", "--gallery", "g", "ada", ""], ["models", "fetch", "retinaface"],
        ["models", "verify", ""], ["models", "path", "retinaface"],
        ["build", "retinaface", "--calibration", "."],
        ["eval", "pairs", "--images", "x", "--pairs", "y", "--recipe", "retinaface"],
        ["eval", "pairs", "--images", "x", "--pairs", "y", "--detector", "retinaface"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_exits_with_2_and_shows_usage(words: list[str], cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEFACE_GALLERY", raising=False)
    ran = cli(*words)
    assert ran.code == 2, ran
    assert "Usage: " in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_exit_codes_reach_the_shell(edgeface: Cli, empty_home: Path) -> None:
    """In processes of their own: 0 done, 1 failed, 2 wrong usage."""
    assert edgeface("models", "path").code == 0
    assert edgeface("models", "verify").code == 1
    assert edgeface("models", "frobnicate").code == 2


def test_detect_gives_faces_and_reports_what_it_cannot_read(folder: Path, cli: Cli) -> None:
    ran = cli("detect", "--json", folder)
    assert ran.code == 1
    found = ran.document
    assert [one["photo"] for one in found["photos"]] == [str(folder / "barack.jpg"), str(folder / "wall.png")]
    good, wall = found["photos"]
    height, width = read_photo(folder / "barack.jpg").shape[:2]
    assert (good["height"], good["width"]) == (height, width)
    (face,) = good["faces"]
    left, top, right, bottom = face["box"]
    assert 0 < left < right < width
    assert 0 < top < bottom < height
    assert 0.7 < face["score"] <= 1
    assert all(left < x < right and top < y < bottom for x, y in face["landmarks"])
    assert wall["faces"] == []
    assert list(found["failed"]) == [str(folder / "broken.jpg")]
    assert "broken.jpg" in ran.err
    assert ran.err.count("\n") == 1


def test_detect_as_a_table(folder: Path, cli: Cli) -> None:
    (folder / "broken.jpg").unlink()
    ran = cli("detect", folder)
    assert (ran.code, ran.err) == (0, "")
    assert "no face" in ran.out
    assert "barack.jpg" in ran.out
    assert "score" in ran.out


def test_files_folders_and_patterns_mix(folder: Path, cli: Cli) -> None:
    ran = cli("detect", "--json", folder / "*.jpg", folder / "wall.png", OBAMA)
    names = [one["photo"] for one in ran.document["photos"]]
    assert names == [str(folder / "barack.jpg"), str(folder / "wall.png"), OBAMA]


def test_a_place_that_is_not_there_is_reported_and_the_rest_goes_on(folder: Path, cli: Cli) -> None:
    for command in (["detect"], ["enroll", "--gallery", str(folder / "g"), "Barack"]):
        ran = cli(*command, "--json", folder / "nothing.jpg", folder / "barack.jpg", folder / "no*thing")
        assert ran.code == 1
        found = ran.document
        assert list(found["failed"]) == [str(folder / "nothing.jpg"), str(folder / "no*thing")]
        assert found["photos"] == 1 or len(found["photos"]) == 1
        assert ran.err.count("\n") == 2


@pytest.mark.parametrize("command", ["detect", "identify"])
def test_nothing_readable_at_all_fails(command: str, folder: Path, cli: Cli) -> None:
    gallery = folder / "g"
    assert cli("enroll", "--gallery", gallery, "Barack", OBAMA).code == 0
    options = ["--gallery", str(gallery)] if command == "identify" else []
    for photo in ("nothing.jpg", "broken.jpg", "notes.txt"):
        ran = cli(command, *options, folder / photo)
        assert ran.code == 1, photo
        assert photo in ran.err
        assert "Traceback" not in ran.err
        assert ran.out == ""  # no table without a row


def test_unusual_names_of_files_and_people(folder: Path, cli: Cli) -> None:
    names = ["with space", "Éric Łukasz 李", "-dash", "a'b\"c[1]", "per%cent#"]
    for name in names:
        shutil.copy(OBAMA, folder / f"{name}.jpg")
    photos = [folder / f"{name}.jpg" for name in names]
    gallery = folder / "g [1] é.gallery"
    ran = cli("enroll", "--gallery", gallery, "--json", "--", "-Éric d'Łukasz [李]", *photos)
    assert ran.code == 0, ran
    assert ran.document["photos"] == 5
    found = cli("identify", "--gallery", gallery, "--json", *photos).document
    assert [one["photo"] for one in found["photos"]] == [str(photo) for photo in photos]
    assert {one["faces"][0]["name"] for one in found["photos"]} == {"-Éric d'Łukasz [李]"}
    assert "-Éric d'Łukasz [李]" in cli("identify", "--gallery", gallery, photos[0]).out


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii:strict"])
def test_a_file_name_that_is_not_utf8(encoding: str, folder: Path, edgeface: Cli) -> None:
    photo = os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")
    shutil.copy(folder / "wall.png", photo)
    edgeface.environment["PYTHONIOENCODING"] = encoding  # type: ignore[attr-defined]  # of CommandLine
    ran = edgeface("detect", photo)
    assert ran.code == 0, ran.err
    assert "caf" in ran.out
    ran = edgeface("detect", "--json", photo)
    assert ran.code == 0, ran.err
    assert ran.document["photos"][0]["photo"] == photo


def test_annotated_copies_of_files_of_one_name_do_not_overwrite_each_other(folder: Path, cli: Cli) -> None:
    for place, photo in (("2014", MACRON[0]), ("2025", MACRON[1])):
        (folder / place).mkdir()
        shutil.copy(photo, folder / place / "portrait.jpg")
    assert cli("enroll", "--gallery", folder / "g", "Emmanuel", MACRON[0]).code == 0
    out = folder / "out"
    ran = cli("identify", "--gallery", folder / "g", "--annotate", out, folder / "2014", folder / "2025")
    assert ran.code == 0
    sizes = sorted(read_photo(path).shape for path in out.iterdir())
    assert sizes == sorted(read_photo(path).shape for path in MACRON)


def test_an_annotated_copy_that_cannot_be_written_is_one_clear_error(folder: Path, cli: Cli) -> None:
    assert cli("enroll", "--gallery", folder / "g", "Barack", OBAMA).code == 0
    ran = cli("identify", "--gallery", folder / "g", "--annotate", folder / "notes.txt" / "out", OBAMA)
    assert ran.code == 1
    assert "cannot write the picture" in ran.err
    assert ran.err.count("\n") == 1


def test_models_that_are_absent_or_wrong_are_one_clear_error(folder: Path, cli: Cli) -> None:
    for words, said in (
        (["--detector", "retinaface"], "model 'retinaface' at precision 'fp32' is not there"),
        (["--detector", str(folder / "own.onnx")], "no manifest beside the model"),
        (["--precision", "int8"], "run `edgeface build yunet --precision int8 --calibration FOLDER`"),
        (["--detector", ""], "model: expected a recipe's name or the path of a model file, got ''"),
    ):
        ran = cli("detect", *words, OBAMA)
        assert ran.code == 1
        assert said in ran.err
        assert ran.err.count("\n") == 1


def test_a_reader_that_goes_away_is_no_traceback(folder: Path) -> None:
    command = f'"{sys.executable}" -m edgeface.tools detect --json "{OBAMA}" "{OBAMA}" | head -c 1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout == "{"
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("words", ["models path", "models list --json", "models verify", "--help"])
def test_output_that_cannot_be_written_is_one_clear_error(words: str, empty_home: Path) -> None:
    command = f'"{sys.executable}" -m edgeface.tools {words} > /dev/full'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("edgeface: ")
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_termination_cleans_up_like_ctrl_c(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, tempfile, time\nfrom edgeface.tools import main\n"
        "def work(standalone_mode):\n"
        "    with tempfile.TemporaryDirectory(dir=sys.argv[1]):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(60)\n"
        "main.cli = work\nmain.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False, timeout=50
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert os.listdir(tmp_path) == []


def test_models_are_listed_with_their_risks(with_models: Path, cli: Cli) -> None:
    listed = cli("models", "list", "--json").document
    assert {one["name"]: (one["state"], one["licence"]) for one in listed} == {
        "sface": ("stored", "Apache-2.0"), "yunet": ("stored", "MIT")
    }  # fmt: skip
    assert all(one["risks"] and one["summary"] for one in listed)
    assert "sface" in cli("models", "list").out
    assert cli("models", "verify").code == 0
    assert [one["state"] for one in cli("models", "verify", "--json", "sface").document] == ["stored"]
    assert cli("models", "path", "sface").out.strip() == str(with_models / "models/sface.fp32.onnx")
    assert cli("models", "path").out.strip() == str(with_models / "models")
    assert cli("models", "fetch").code == 0  # stored: nothing to fetch, no index needed


def test_a_damaged_model_is_found_by_verify(empty_home: Path, model_home: Path, cli: Cli) -> None:
    shutil.copytree(model_home / "models", empty_home / "models")
    path = empty_home / "models/yunet.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    ran = cli("models", "verify", "--json")
    assert ran.code == 1
    assert {one["name"]: one["state"] for one in ran.document} == {"sface": "stored", "yunet": "damaged"}
    ran = cli("models", "path", "yunet")
    assert ran.code == 1
    assert "edgeface models fetch yunet" in ran.err
