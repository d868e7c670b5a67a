"""What a backup or an export must not be written over."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING

import pytest

from edgeface.errors import GalleryError, InputError
from edgeface.gallery import Gallery, copies
from edgeface.gallery.care import check
from edgeface.gallery.database import connect, translate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Draw = Callable[..., npt.NDArray[np.float32]]


@pytest.mark.parametrize("call", ["backup", "export"])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal", ".index", ".damaged-1"])
def test_the_gallery_and_its_files_are_no_targets(
    gallery: Gallery, path: Path, units: Draw, call: str, suffix: str
) -> None:
    gallery.add("one", units(1)[0])
    before = path.read_bytes()
    for folder in (path.parent, path.parent / "sub" / ".."):
        (path.parent / "sub").mkdir(exist_ok=True)
        with pytest.raises(GalleryError, match="belongs to the gallery itself"):
            getattr(gallery, call)(folder / (path.name + suffix))
    assert path.read_bytes() == before
    assert len(gallery) == 1


@pytest.mark.parametrize("call", ["backup", "export"])
def test_other_names_of_the_gallery_are_no_targets(gallery: Gallery, path: Path, call: str) -> None:
    path.with_name("hard").hardlink_to(path)
    path.with_name("soft").symlink_to(path)
    for name in ("hard", "soft"):
        with pytest.raises(GalleryError, match="belongs to the gallery itself"):
            getattr(gallery, call)(path.with_name(name))


@pytest.mark.parametrize("call", ["backup", "export"])
def test_what_is_no_earlier_copy_is_kept(gallery: Gallery, path: Path, units: Draw, call: str) -> None:
    gallery.add("one", units(1)[0])
    photo, link, other = (path.with_name(name) for name in ("photo.jpg", "link", "other.gallery"))
    photo.write_bytes(b"\xff\xd8" * 5000)
    link.symlink_to(photo)
    Gallery.open(other, model_id="m", dimension=128).close()
    for one in (photo, link, other):
        before = one.read_bytes()
        with pytest.raises(GalleryError, match=r"cannot write the (backup|export)"):
            getattr(gallery, call)(one)
        assert one.read_bytes() == before
    for given in ("", "a\0b", 7, None):
        with pytest.raises(InputError, match="path"):
            getattr(gallery, call)(given)
    for name in (path.parent, path.parent / "no" / "x", path.with_name("x" * 300), path.with_name("x" * 254)):
        with pytest.raises(GalleryError, match="cannot write"):
            getattr(gallery, call)(name)
    assert not (path.parent / "no").exists()


@pytest.mark.parametrize("call", ["backup", "export"])
def test_an_earlier_copy_or_an_empty_file_is_replaced(gallery: Gallery, path: Path, units: Draw, call: str) -> None:
    target = path.with_name("copy")
    target.touch()
    getattr(gallery, call)(target)
    first = target.read_bytes()
    gallery.add("one", units(1)[0])
    getattr(gallery, call)(target)
    assert target.read_bytes() != first
    assert {one.name for one in path.parent.iterdir()} <= {path.name, "copy", path.name + "-wal", path.name + "-shm"}


def test_a_backup_that_somebody_has_open_is_kept(gallery: Gallery, path: Path, units: Draw) -> None:
    copy = path.with_name("copy")
    gallery.backup(copy)
    with Gallery.open(copy, model_id=None) as opened:
        opened.add("only here", units(1)[0])
        with pytest.raises(GalleryError, match="in use"):
            gallery.backup(copy)
    gallery.backup(copy)
    with Gallery.open(copy, model_id=None) as opened:
        assert len(opened) == 0


def test_a_path_that_is_not_utf8_is_a_path(tmp_path: Path, units: Draw) -> None:
    path = tmp_path / os.fsdecode(b"t\xfcr #1?.gallery")
    with Gallery.open(path, model_id="m", dimension=128) as made:
        made.add("one", units(1)[0])
        for _ in range(2):  # the second replaces the first
            made.backup(tmp_path / os.fsdecode(b"\xff.backup"))
    assert check(path).problems == []


def test_a_disk_that_is_too_full_for_a_backup_is_told_by_the_backups_name(
    gallery: Gallery, path: Path, units: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    def narrow(file: Path) -> sqlite3.Connection:
        connection = connect(file)
        if file.suffix == ".part":
            connection.execute("PRAGMA max_page_count = 2")  # what SQLite then says is what it says of a full disk
        return connection

    gallery.add("ada", units(1))
    monkeypatch.setattr(copies, "connect", narrow)
    with pytest.raises(GalleryError, match=r"copy\.gallery: the disk is full"):
        gallery.backup(path.with_name("copy.gallery"))
    assert sorted(one.suffix for one in path.parent.iterdir()) == [".gallery", ".gallery-shm", ".gallery-wal"]


def test_a_file_system_that_is_mounted_read_only_is_named(
    gallery: Gallery, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gallery.close()
    status = list(os.statvfs(path))
    status[8] |= os.ST_RDONLY  # f_flag
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(status))
    with pytest.raises(GalleryError, match="mounted read-only; move the gallery to one that is not"):
        Gallery.open(path, model_id="test-model", dimension=128)


def test_a_disk_error_says_what_it_may_be(path: Path) -> None:
    told = str(translate(sqlite3.OperationalError("disk I/O error"), path, 0))
    assert told == f"{path}: disk I/O error: is the disk full or failing, or was the file moved away?"


def test_a_relative_path_holds_when_the_process_changes_its_folder(
    tmp_path: Path, units: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = units(2)
    monkeypatch.chdir(tmp_path)
    with Gallery.open("kiosk.gallery", model_id="m", dimension=128) as gallery:
        gallery.add("ada", rows[0])
        monkeypatch.chdir("/")
        gallery.add("bob", rows[1])
        assert gallery.search(rows[0])[0].names[0] == "ada"
        assert gallery.stats()["log_bytes"] > 0
        assert gallery.path == tmp_path / "kiosk.gallery"
