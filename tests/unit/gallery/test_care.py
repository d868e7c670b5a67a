"""Check, repair, backup and figures of a gallery file."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from edgeface.errors import GalleryBusyError, GalleryCorruptError, GalleryError, GalleryFormatError
from edgeface.gallery import Gallery, salvage
from edgeface.gallery.care import check

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Draw = Callable[..., npt.NDArray[np.float32]]

PEOPLE = 200


@pytest.fixture
def rows(path: Path, units: Draw) -> npt.NDArray[np.float32]:
    """A gallery with 200 people of one template each at `path`, closed."""
    rows = units(PEOPLE)
    with Gallery.open(path, model_id="m", dimension=128) as gallery, gallery._store.database.writing() as one:
        for number, coded in enumerate(gallery._store.codec.encode(rows)):
            person = gallery._store.insert_person(one, f"person {number}", "{}", 0, 0)
            from edgeface.gallery.template_info import TemplateInfo

            gallery._store.insert_templates(one, person, coded[None], [TemplateInfo()], 0)
    return rows


def test_a_sound_gallery_has_no_problems(path: Path, rows: npt.NDArray[np.float32]) -> None:
    report = check(path)
    assert (report.people, report.templates, report.problems) == (PEOPLE, PEOPLE, [])
    before = path.read_bytes()
    assert check(path, repair=True).repaired == []
    assert path.read_bytes() == before


def test_damaged_templates_are_named_and_removed(path: Path, rows: npt.NDArray[np.float32]) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER template_changed")
        for one in (5, 6):
            connection.execute("UPDATE templates SET data = zeroblob(128) WHERE template_id = ?", (one,))
        connection.execute("UPDATE templates SET data = zeroblob(7) WHERE template_id = 9")
        connection.executescript(
            "CREATE TRIGGER template_changed AFTER UPDATE ON templates BEGIN "
            "SELECT RAISE(ABORT, 'templates are never changed in place'); END"
        )
    with pytest.raises(GalleryCorruptError, match="--repair"):
        Gallery.open(path, model_id="m", dimension=128)
    report = check(path)
    assert report.enrol_again == ["person 4", "person 5", "person 8"]
    assert len(report.problems) == 3
    assert report.repaired == []
    report = check(path, repair=True)
    assert report.templates == PEOPLE - 3
    with Gallery.open(path, model_id="m", dimension=128) as gallery:
        assert len(gallery) == PEOPLE
        assert gallery.search(rows[3])[0].names[0] == "person 3"
    assert check(path).problems == []


def test_damaged_pages_are_left_behind_and_the_rest_is_kept(path: Path, rows: npt.NDArray[np.float32]) -> None:
    whole = path.read_bytes()
    page = 4096
    with closing(sqlite3.connect(path)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'templates'").fetchone()[0]
    lost = len(whole) // page - 1  # the last page: a leaf of the templates or of their index
    assert lost != root
    path.write_bytes(whole[: lost * page] + b"\xa5" * page)
    report = check(path)
    assert report.problems != []
    report = check(path, repair=True)
    assert report.people == PEOPLE
    assert PEOPLE - 40 <= report.templates <= PEOPLE
    assert len(report.enrol_again) == PEOPLE - report.templates
    assert len(list(path.parent.glob("kiosk.gallery.damaged-*"))) == 1
    with Gallery.open(path, model_id="m", dimension=128) as gallery:
        missing = set(report.enrol_again)
        for number in range(0, PEOPLE, 7):
            if f"person {number}" not in missing:
                assert gallery.search(rows[number])[0].names[0] == f"person {number}"
        last = max(person.person_id for person in gallery.people())
        assert gallery.add("new", rows[0]).person_id > last
    assert check(path).problems == []


def test_a_file_that_others_can_read_is_a_problem(path: Path, rows: npt.NDArray[np.float32]) -> None:
    path.chmod(0o644)
    assert "0644" in check(path).problems[0]
    check(path, repair=True)
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_no_gallery_is_not_repaired(path: Path) -> None:
    path.write_text("hello " * 2000)
    with pytest.raises(GalleryFormatError, match="not a gallery"):
        check(path, repair=True)
    assert path.read_text() == "hello " * 2000
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_backup_taken_while_in_use_is_a_gallery(path: Path, rows: npt.NDArray[np.float32]) -> None:
    copy = path.with_name("copy.gallery")
    with Gallery.open(path, model_id="m", dimension=128) as gallery:
        gallery.add("late", rows[0])
        gallery.backup(copy)
        gallery.add("later", rows[0])
        gallery.backup(path.with_name("second"))
    assert copy.stat().st_mode & 0o777 == 0o600
    names = {one.name for one in path.parent.iterdir()}
    assert names == {path.name, "copy.gallery", "second"}
    with Gallery.open(copy, model_id="m", dimension=128) as restored:
        assert len(restored) == PEOPLE + 1
        assert restored.search(rows[7])[0].names[0] == "person 7"
    assert check(copy).problems == []


def test_a_backup_that_cannot_be_written_leaves_nothing(path: Path, rows: npt.NDArray[np.float32]) -> None:
    with Gallery.open(path, model_id="m", dimension=128) as gallery:
        with pytest.raises(GalleryError, match="cannot write the backup"):
            gallery.backup(path.parent / "no" / "folder")
        (path.parent / "taken").mkdir()
        with pytest.raises(GalleryError, match="cannot write the backup"):
            gallery.backup(path.parent / "taken")
    assert {one.name for one in path.parent.iterdir()} == {path.name, "taken"}


def test_figures(path: Path, rows: npt.NDArray[np.float32]) -> None:
    with Gallery.open(path, model_id="m", dimension=128) as gallery:
        gallery.add("person 3", rows[:2], qualities=[0.5, 1.0])
        figures = gallery.stats()
    assert (figures["people"], figures["templates"], figures["most_templates_of_one"]) == (PEOPLE, PEOPLE + 2, 3)
    assert figures["mean_quality"] == 0.75
    assert figures["search"] == "exact scan"
    assert figures["memory_bytes"] >= (PEOPLE + 2) * 128
    assert figures["file_bytes"] == path.stat().st_size or figures["log_bytes"] > 0


def damage(path: Path) -> bytes:
    """Break the last page, a leaf of the templates or of their index; returns the bytes of the broken file."""
    whole = path.read_bytes()
    broken = whole[: len(whole) - 4096] + b"\xa5" * 4096
    path.write_bytes(broken)
    return broken


def test_there_is_a_file_at_its_name_at_every_moment_of_a_repair(
    path: Path, rows: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = damage(path)
    seen = []

    def watched(real: Callable[..., None]) -> Callable[..., None]:
        def call(*given: object, **more: object) -> None:
            real(*given, **more)
            seen.append(path.exists())

        return call

    for name in ("link", "replace", "rename", "unlink", "fsync"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    check(path, repair=True)
    assert len(seen) >= 4
    assert all(seen)
    kept = next(path.parent.glob("kiosk.gallery.damaged-*"))
    assert kept.read_bytes() == broken


def test_a_repair_that_fails_leaves_the_damaged_file(
    path: Path, rows: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = damage(path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(salvage, "_sync_file", full)
        with pytest.raises(GalleryError, match="No space left"):
            check(path, repair=True)
    assert path.read_bytes() == broken
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_file_that_somebody_has_open_is_not_salvaged(path: Path, rows: npt.NDArray[np.float32]) -> None:
    broken = damage(path)
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT count(*) FROM settings").fetchone()
        with pytest.raises(GalleryBusyError, match="has it open"):
            check(path, repair=True)
        assert path.read_bytes() == broken
    assert not list(path.parent.glob("*damaged*"))
    assert check(path, repair=True).people == PEOPLE


def test_what_was_in_the_log_is_salvaged_and_the_log_is_kept(path: Path, rows: npt.NDArray[np.float32]) -> None:
    damage(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        writer.execute('UPDATE people SET metadata = \'{"in":"the log"}\' WHERE person_id = 7')
        file, log = path.read_bytes(), path.with_name(path.name + "-wal").read_bytes()
    path.write_bytes(file)
    path.with_name(path.name + "-wal").write_bytes(log)
    report = salvage.salvage(path, salvage.CheckReport())
    assert report.people == PEOPLE
    kept = next(one for one in path.parent.glob("kiosk.gallery.damaged-*") if not one.name.endswith("-wal"))
    assert kept.with_name(kept.name + "-wal").read_bytes() == log
    with Gallery.open(path, model_id="m", dimension=128) as gallery:
        assert gallery.people()[6].metadata == {"in": "the log"}


def test_an_erasure_that_a_reader_holds_back_is_said(
    path: Path, rows: npt.NDArray[np.float32], caplog: pytest.LogCaptureFixture
) -> None:
    gallery = Gallery.open(path, model_id="m", dimension=128, busy_timeout_ms=50)
    with gallery, closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM people").fetchone()
        (line,) = gallery.erase("person 3")
        assert "another process is reading" in line
        gallery.remove("person 4")
        assert caplog.text.count("another process is reading") == 2
        reader.execute("COMMIT")
        assert gallery.erase("person 5") == []


def test_erasing_deletes_the_snapshot(path: Path, rows: npt.NDArray[np.float32]) -> None:
    with Gallery.open(path, model_id="m", dimension=128) as gallery:
        path.with_name(path.name + ".index").write_bytes(b"who resembles whom")
        assert gallery.erase("person 3") == []
        assert not path.with_name(path.name + ".index").exists()


def test_an_empty_gallery_is_true(gallery: Gallery) -> None:
    assert len(gallery) == 0
    assert gallery
