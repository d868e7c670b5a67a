"""Enrolling, identifying and verifying on the command line, with real photographs."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from edgeface.tools.demo import demo_photo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Cli = Callable[..., Any]

MACRON = [str(demo_photo(f"emmanuel_macron_{year}.jpg")) for year in (2014, 2025)]
ARDERN = [str(demo_photo(f"jacinda_ardern_{year}.jpg")) for year in (2018, 2022)]
OBAMA = str(demo_photo("barack_obama_2005.jpg"))


def test_people_are_enrolled_and_identified(tmp_path: Path, with_models: Path, cli: Cli) -> None:
    gallery = tmp_path / "kiosk.gallery"
    assert cli("enroll", "--gallery", gallery, "--json", "Emmanuel", MACRON[0]).document["person"]["templates"] == 1
    ran = cli("enroll", "--gallery", gallery, "Jacinda", *ARDERN[:1])
    assert ran.code == 0
    assert "Jacinda: 1 photograph enrolled" in ran.out
    ran = cli("identify", "--gallery", gallery, "--json", MACRON[1], ARDERN[1], OBAMA)
    assert ran.code == 0
    found = ran.document
    assert [one["faces"][0]["name"] for one in found["photos"]] == ["Emmanuel", "Jacinda", None]
    assert [one["faces"][0]["decision"] for one in found["photos"]] == ["match", "match", "unknown"]
    assert set(found["photos"][0]["stages_ms"]) == {"detect", "align", "embed", "search"}
    assert found["threshold"]["fmr"] == 1e-4
    assert "LFW" in found["threshold"]["origin"]
    ran = cli("identify", "--gallery", gallery, MACRON[1], OBAMA)
    assert ran.code == 0
    assert "Emmanuel" in ran.out
    assert "unknown" in ran.out
    assert "at most 0.0001 (measured 8.2e-05, 95 % limits 6.6e-05 to 0.0001)" in ran.out


def test_metadata_is_enrolled_and_listed(tmp_path: Path, with_models: Path, cli: Cli) -> None:
    gallery = tmp_path / "kiosk.gallery"
    ran = cli("enroll", "--gallery", gallery, "--json", "--metadata", '{"badge": 7}', "Emmanuel", *MACRON)
    assert (ran.code, ran.document["person"]["metadata"]) == (0, {"badge": 7})
    (listed,) = cli("gallery", "list", "--gallery", gallery, "--json").document["people"]
    assert (listed["name"], listed["metadata"]) == ("Emmanuel", {"badge": 7})
    for wrong in ("{", "[]", "7", '{"a": NaN}'):
        ran = cli("enroll", "--gallery", gallery, "--metadata", wrong, "Jacinda", *ARDERN)
        assert ran.code == 2
        assert "expected a JSON object" in ran.err
    ran = cli("enroll", "--gallery", gallery, "--metadata", "{}", "--people", tmp_path)
    assert ran.code == 2
    assert "goes with NAME" in ran.err


def test_one_person_alone_has_no_margin_and_json_says_null(tmp_path: Path, with_models: Path, cli: Cli) -> None:
    assert cli("enroll", "--gallery", tmp_path / "g", "Emmanuel", MACRON[0]).code == 0
    found = cli("identify", "--gallery", tmp_path / "g", "--json", MACRON[1]).document
    assert found["photos"][0]["faces"][0]["margin"] is None


def test_an_asked_rate_moves_the_threshold(tmp_path: Path, with_models: Path, cli: Cli) -> None:
    assert cli("enroll", "--gallery", tmp_path / "g", "Emmanuel", MACRON[0]).code == 0
    run = ["identify", "--gallery", str(tmp_path / "g"), "--json", MACRON[1]]
    strict, loose = (cli(*run, "--fmr", fmr).document["threshold"] for fmr in ("2e-6", "1e-3"))
    assert strict["threshold"] > loose["threshold"]
    own = cli(*run, "--threshold", "0.99").document
    assert (own["threshold"]["threshold"], own["threshold"]["fmr"]) == (0.99, None)
    assert own["photos"][0]["faces"][0]["decision"] == "unknown"
    ran = cli(*run, "--fmr", "1e-9")
    assert ran.code == 1
    assert "not supported" in ran.err
    ran = cli(*run, "--fmr", "1e-3", "--threshold", "0.4")
    assert ran.code == 2
    assert "give one of --fmr, --fpir and --threshold" in ran.err


def test_enrolment_takes_what_it_can(folder: Path, cli: Cli) -> None:
    ran = cli("enroll", "--gallery", folder / "g", "--json", "Barack", folder)
    assert ran.code == 1
    found = ran.document
    assert found["photos"] == 1
    assert found["person"]["templates"] == 1
    assert "got none" in found["failed"][str(folder / "wall.png")]
    assert "broken.jpg" in "".join(found["failed"])
    ran = cli("enroll", "--gallery", folder / "other", "Wall", folder / "wall.png")
    assert ran.code == 1
    assert "nothing was enrolled" in ran.err


def test_a_gallery_that_is_not_there_is_not_made_by_asking(folder: Path, cli: Cli) -> None:
    ran = cli("identify", "--gallery", folder / "absent.gallery", OBAMA)
    assert ran.code == 1
    assert "edgeface enroll" in ran.err
    assert not (folder / "absent.gallery").exists()


def test_the_gallery_may_come_from_the_environment(folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFACE_GALLERY", str(folder / "kiosk.gallery"))
    assert cli("enroll", "Barack", OBAMA).code == 0
    assert cli("identify", "--json", OBAMA).document["photos"][0]["faces"][0]["name"] == "Barack"


def test_verify_compares_two_photographs(with_models: Path, folder: Path, cli: Cli) -> None:
    same = cli("verify", "--json", *MACRON)
    assert same.code == 0
    found = same.document
    assert found["match"] is True
    assert found["similarity"] > found["threshold"]
    assert (found["fmr"], "LFW" in found["origin"]) == (1e-4, True)
    other = cli("verify", MACRON[0], OBAMA)
    assert other.code == 0
    assert other.out.startswith("no match: similarity")
    ran = cli("verify", MACRON[0], folder / "wall.png")
    assert ran.code == 1
    assert ran.err == "edgeface: second photograph: expected a face, found none\n"


def test_a_folder_of_people_is_enrolled_with_what_is_good_in_it(folder: Path, cli: Cli, edgeface: Cli) -> None:
    school = folder / "school"
    (school / "Emmanuel M.").mkdir(parents=True)
    (school / "Nobody").mkdir()
    (school / ".thumbnails").mkdir()
    shutil.copy(MACRON[0], school / "Emmanuel M." / "1.jpg")
    shutil.copy(folder / "broken.jpg", school / "Emmanuel M." / "2.jpg")
    shutil.copy(ARDERN[0], school / "Jacinda.jpg")
    (school / "list.txt").write_text("Emmanuel, Jacinda")
    (school / ("x" * 201)).mkdir()
    latin = os.fsdecode(os.fsencode(school) + b"/Andr\xe9.jpg")  # a name from before UTF-8
    shutil.copy(OBAMA, latin)
    ran = edgeface("enroll", "--gallery", folder / "g", "--people", school, "--json")
    assert ran.code == 1
    enrolled = [(one["person"]["name"], one["photos"]) for one in ran.document["people"]]
    assert enrolled == [("Emmanuel M.", 1), ("Jacinda", 1)]
    assert ran.document["nobody"] == ["Nobody"]
    assert set(ran.document["failed"]) == {
        str(school / "Nobody"), str(school / "Emmanuel M." / "2.jpg"), str(school / ("x" * 201)), latin
    }  # fmt: skip
    assert "expected a name of 1 to 200 characters, got 201" in ran.err
    found = cli("identify", "--gallery", folder / "g", "--json", MACRON[1], ARDERN[1]).document
    assert [one["faces"][0]["name"] for one in found["photos"]] == ["Emmanuel M.", "Jacinda"]

    shutil.rmtree(school / "Nobody")
    (school / ("x" * 201)).rmdir()
    os.unlink(latin)
    (school / "Emmanuel M." / "2.jpg").unlink()
    ran = cli("enroll", "--gallery", folder / "g2", "--people", school)
    assert (ran.code, ran.out.count("1 photograph enrolled, 1 template in")) == (0, 2)


@pytest.mark.parametrize(
    ("entry", "said"), [(None, "nobody there"), ("notes.txt", "nobody there"), ("x" * 201 + ".jpg", "got 201")]
)
def test_a_folder_without_people_is_refused(entry: str | None, said: str, folder: Path, cli: Cli) -> None:
    place = folder / "empty"
    place.mkdir()
    if entry is not None:
        (place / entry).write_bytes(b"")
    ran = cli("enroll", "--gallery", folder / "g", "--people", place)
    assert ran.code == 1
    assert said in ran.err
    assert not os.path.exists(folder / "g")


@pytest.mark.parametrize("words", [["Ada", "--people", "."], ["--people", ".", "--camera", "0"], ["Ada"], []])
def test_enrolment_is_of_one_kind(words: list[str], folder: Path, cli: Cli) -> None:
    ran = cli("enroll", "--gallery", folder / "g", *words)
    assert ran.code == 2
    assert "--people alone" in ran.err
