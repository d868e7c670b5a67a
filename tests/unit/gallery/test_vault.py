"""Encryption at rest: nothing readable on disk, wrong keys and tampering named, rotation and erasure."""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeface.errors import GalleryCorruptError, GalleryError, GalleryKeyError, MissingDependencyError
from edgeface.gallery import Gallery, key_from_credential, key_from_environment, key_from_file
from edgeface.gallery.care import check
from edgeface.gallery.vectors import checksum

pytest.importorskip("cryptography", reason="encrypted galleries need the extra 'security'")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    Draw = Callable[..., npt.NDArray[np.float32]]

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


def opened(path: Path, key: bytes | None = KEY) -> Gallery:
    provider = None if key is None else (lambda: key)
    return Gallery.open(path, model_id="m", dimension=128, key=provider)


@pytest.fixture
def sealed(path: Path, units: Draw) -> Iterator[Gallery]:
    with opened(path) as gallery:
        gallery.add("ada", units(3))
        gallery.add("bob", units(2))
        yield gallery


def on_disk(folder: Path) -> bytes:
    return b"".join(one.read_bytes() for one in folder.iterdir() if one.is_file())


def edit(path: Path, *statements: tuple[str, tuple[object, ...]]) -> None:
    """Change the file as somebody with access to the disk can."""
    with closing(sqlite3.connect(path)) as connection:
        trigger = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'template_changed'").fetchone()[0]
        connection.execute("DROP TRIGGER template_changed")
        for statement, values in statements:
            connection.execute(statement, values)
        connection.execute(trigger)
        connection.commit()


def test_an_encrypted_gallery_answers_as_a_plain_one(path: Path, units: Draw) -> None:
    rows, plain = units(20), path.with_name("plain")
    with opened(path) as one, opened(plain, None) as two:
        for gallery in (one, two):
            for number in range(10):
                gallery.add(f"{number}", rows[2 * number : 2 * number + 2])
        for left, right in zip(one.search(rows, k=3), two.search(rows, k=3), strict=True):
            assert left.names == right.names
            np.testing.assert_array_equal(left.similarities, right.similarities)
        one.remove("3")
        assert one.encrypted
        assert not two.encrypted
        assert one.stats()["encrypted"] is True
    with opened(path) as one:
        assert one.search(rows[8])[0].names[0] == "4"
        assert len(one) == 9


def test_no_template_and_no_key_is_readable_on_disk(sealed: Gallery, path: Path, units: Draw) -> None:
    rows = units(1)
    sealed.add("eve", rows)
    coded = sealed._store.codec.encode(rows).tobytes()
    sealed.backup(path.with_name("copy"))
    content = on_disk(path.parent)
    for secret in (coded, coded[:24], KEY, KEY.hex().encode()):
        assert secret not in content
    with opened(path.with_name("plain"), None) as plain:
        plain.add("eve", rows)
        assert coded in on_disk(path.parent)  # the search itself can find what it looks for


def test_a_wrong_or_absent_key_is_named(sealed: Gallery, path: Path) -> None:
    with pytest.raises(GalleryKeyError, match="not the one"):
        opened(path, OTHER)
    with pytest.raises(GalleryKeyError, match="is encrypted"):
        opened(path, None)
    with pytest.raises(GalleryKeyError, match="32 bytes"):
        opened(path, b"short")
    with opened(path.with_name("plain"), None) as plain:
        plain.add("ada", np.eye(1, 128, dtype=np.float32) * 0 + np.float32(128**-0.5))
    with pytest.raises(GalleryKeyError, match="not encrypted"):
        opened(path.with_name("plain"))


def test_templates_cannot_be_changed_or_moved_to_somebody_else(sealed: Gallery, path: Path) -> None:
    """The checksum is no secret, so a forger makes it right; the tag tells all the same."""
    sealed.close()
    whole = path.read_bytes()
    with closing(sqlite3.connect(path)) as connection:
        data = dict(connection.execute("SELECT template_id, data FROM templates"))
    update = "UPDATE templates SET data = ?, checksum = ? WHERE template_id = 1"
    changed = data[1][:20] + bytes([data[1][20] ^ 1]) + data[1][21:]
    for forged in (changed, data[4], data[2], data[1][:-1] + bytes([data[1][-1] ^ 1]), bytes(156)):
        path.write_bytes(whole)
        edit(path, (update, (forged, checksum(1, 1, forged))))
        with pytest.raises(GalleryCorruptError, match="template 1 of person 1 was tampered with"):
            opened(path)
    path.write_bytes(whole)
    edit(path, ("UPDATE templates SET person_id = 2, checksum = ? WHERE template_id = 1", (checksum(1, 2, data[1]),)))
    with pytest.raises(GalleryCorruptError, match="template 1 of person 2 was tampered with"):
        opened(path)
    path.write_bytes(whole)
    edit(path, ("UPDATE person_keys SET wrapped = (SELECT wrapped FROM person_keys WHERE person_id = 2)", ()))
    with pytest.raises(GalleryCorruptError, match="key of person 1"):
        opened(path)
    path.write_bytes(whole)
    edit(path, ("DELETE FROM person_keys WHERE person_id = 1", ()))
    with pytest.raises(GalleryCorruptError, match="key of person 1 is missing"):
        opened(path)


def test_a_template_of_another_gallery_does_not_fit(sealed: Gallery, path: Path, units: Draw) -> None:
    with opened(path.with_name("other")) as other:
        other.add("ada", units(3))
    sealed.close()
    with closing(sqlite3.connect(path.with_name("other"))) as connection:
        foreign = connection.execute("SELECT data FROM templates WHERE template_id = 1").fetchone()[0]
        wrapped = connection.execute("SELECT wrapped FROM person_keys WHERE person_id = 1").fetchone()[0]
    edit(
        path,
        ("UPDATE templates SET data = ?, checksum = ? WHERE template_id = 1", (foreign, checksum(1, 1, foreign))),
        ("UPDATE person_keys SET wrapped = ? WHERE person_id = 1", (wrapped,)),
    )
    with pytest.raises(GalleryCorruptError, match="key of person 1"):
        opened(path)


def test_rotation_changes_the_key_and_keeps_everybody(sealed: Gallery, path: Path, units: Draw) -> None:
    sealed.backup(path.with_name("old copy"))
    before = sealed.search(units(1), k=2)[0]
    sealed.rotate_key(lambda: OTHER)
    sealed.add("eve", units(1))
    assert len(sealed) == 3
    sealed.close()
    with pytest.raises(GalleryKeyError):
        opened(path)
    with opened(path, OTHER) as gallery:
        assert len(gallery) == 3
        assert set(before.names) <= {person.name for person in gallery.people()}
    with pytest.raises(GalleryKeyError):  # a copy under the old key is of no use to who has the new one
        opened(path.with_name("old copy"), OTHER)


def test_another_process_with_the_old_key_is_told_to_open_again(sealed: Gallery, path: Path, units: Draw) -> None:
    with opened(path) as stale:
        sealed.rotate_key(lambda: OTHER)
        sealed.add("eve", units(1))
        with pytest.raises(GalleryCorruptError, match="rotated"):
            stale.search(units(1))


def test_a_removed_person_is_gone_from_the_file_and_its_log(sealed: Gallery, path: Path) -> None:
    sealed.rename("ada", "Xanthippe")
    with closing(sqlite3.connect(path)) as connection:
        mine = [row[0] for row in connection.execute("SELECT data FROM templates WHERE person_id = 1")]
        mine += [row[0] for row in connection.execute("SELECT wrapped FROM person_keys WHERE person_id = 1")]
    assert all(one in on_disk(path.parent) for one in mine)
    assert b"Xanthippe" in on_disk(path.parent)
    sealed.remove("Xanthippe")
    content = on_disk(path.parent)
    assert not any(one in content for one in [*mine, b"Xanthippe"])


def test_a_person_is_erased_from_the_backups_too(sealed: Gallery, path: Path) -> None:
    one, gone = path.with_name("copy one"), path.with_name("copy two")
    sealed.rename("ada", "Xanthippe")
    sealed.backup(one)
    sealed.backup(gone)
    with closing(sqlite3.connect(one)) as connection:
        mine = [row[0] for row in connection.execute("SELECT data FROM templates WHERE person_id = 1")]
        mine += [row[0] for row in connection.execute("SELECT wrapped FROM person_keys WHERE person_id = 1")]
    gone.rename(path.with_name("moved"))
    missed = sealed.erase("Xanthippe")
    assert len(missed) == 1
    assert str(gone) in missed[0]
    for secret in (*mine, b"Xanthippe"):
        assert secret not in one.read_bytes() + path.read_bytes()
    with opened(one) as copy:
        assert [person.name for person in copy.people()] == ["bob"]


def test_an_export_must_be_asked_for_in_plain(sealed: Gallery, path: Path) -> None:
    with pytest.raises(GalleryKeyError, match="plaintext"):
        sealed.export(path.with_name("out"))
    assert sealed.export(path.with_name("out"), plaintext=True) == 2
    with opened(path.with_name("again"), OTHER) as again:
        assert again.import_(path.with_name("out")) == 2
        assert again.encrypted


def test_check_and_repair_work_without_the_key(sealed: Gallery, path: Path) -> None:
    sealed.close()
    assert check(path).problems == []
    edit(path, ("UPDATE templates SET data = zeroblob(156) WHERE template_id = 2", ()))
    assert "template 2 is damaged" in check(path, repair=True).problems
    assert check(path).problems == []
    with opened(path) as gallery:
        assert {person.name: person.templates for person in gallery.people()} == {"ada": 2, "bob": 2}


def test_a_repair_of_damaged_pages_keeps_the_keys(sealed: Gallery, path: Path) -> None:
    sealed.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TRIGGER person_edited")
    assert check(path, repair=True).templates == 5
    with opened(path) as gallery:
        assert len(gallery) == 2
    with pytest.raises(GalleryKeyError):
        opened(path, OTHER)


def test_nothing_secret_is_logged(path: Path, units: Draw, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), opened(path) as gallery:
        gallery.add("ada lovelace", units(1))
        gallery.search(units(1))
        gallery.remove("ada lovelace")
        with pytest.raises(GalleryError):
            opened(path, OTHER)
    assert "ada" not in caplog.text
    assert KEY.hex() not in caplog.text


def test_key_files_must_be_private_and_well_formed(tmp_path: Path) -> None:
    file = tmp_path / "key"
    for content in (KEY, KEY.hex().encode(), KEY.hex().encode() + b"\n"):
        file.write_bytes(content)
        file.chmod(0o600)
        assert key_from_file(file)() == KEY
    file.chmod(0o640)
    with pytest.raises(GalleryKeyError, match="chmod 600"):
        key_from_file(file)()
    for content in (b"", KEY[:31], b"zz" * 32):
        file.unlink()
        file.write_bytes(content)
        file.chmod(0o600)
        with pytest.raises(GalleryKeyError, match="32 bytes or 64"):
            key_from_file(file)()
    with pytest.raises(GalleryKeyError, match="cannot read"):
        key_from_file(tmp_path / "absent")()


def test_keys_from_the_environment_and_from_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", KEY.hex())
    assert key_from_environment("A_KEY")() == KEY
    with pytest.raises(GalleryKeyError, match="NO_KEY"):
        key_from_environment("NO_KEY")()
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(GalleryKeyError, match="LoadCredentialEncrypted=gallery"):
        key_from_credential("gallery")()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "gallery").write_bytes(KEY)
    assert key_from_credential("gallery")() == KEY
    (tmp_path / "gallery").chmod(0o440)  # as an access list for the service's user looks
    assert key_from_file(tmp_path / "gallery")() == KEY
    (tmp_path / "link").symlink_to(tmp_path)
    assert key_from_file(tmp_path / "link" / "gallery")() == KEY
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "gallery").symlink_to(tmp_path / "gallery")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(inner))
    with pytest.raises(GalleryKeyError, match="chmod 600"):
        key_from_file(inner / "gallery")()  # a file of somewhere else, by a link
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "gallery").chmod(0o444)
    with pytest.raises(GalleryKeyError, match="chmod 600"):
        key_from_file(tmp_path / "gallery")()
    with pytest.raises(GalleryKeyError, match="systemd credential other"):
        key_from_credential("other")()


def test_a_gallery_of_schema_1_is_migrated_and_keeps_everybody(path: Path, units: Draw) -> None:
    rows = units(2)
    with opened(path, None) as gallery:
        gallery.add("ada", rows)
    with closing(sqlite3.connect(path)) as connection:  # back to what version 1 had
        connection.execute("DROP TABLE person_keys")
        connection.execute("PRAGMA user_version = 1")
    with opened(path, None) as gallery:
        assert gallery.search(rows[1])[0].names == ("ada",)
        assert gallery.stats()["schema_version"] == 2
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_without_the_package_no_unencrypted_gallery_is_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[security\]'` in edgeface's folder"):
        Gallery.open(path, model_id="m", dimension=128, key=lambda: bytes(32))
    assert list(path.parent.iterdir()) == []


def test_a_provider_that_fails_leaves_no_file_and_its_error_is_its_own(path: Path) -> None:
    def broken() -> bytes:
        raise TypeError("the provider's own mistake")

    with pytest.raises(TypeError, match="own mistake"):
        Gallery.open(path, model_id="m", dimension=128, key=broken)
    assert list(path.parent.iterdir()) == []
    with pytest.raises(GalleryKeyError, match="expected a function"):
        Gallery.open(path, model_id="m", dimension=128, key=bytes(32))  # type: ignore[arg-type]  # what is tested
    with Gallery.open(path, model_id="m", dimension=128, key=lambda: bytes(32)) as gallery:
        with pytest.raises(TypeError, match="own mistake"):
            gallery.rotate_key(broken)

        def unlocked() -> bytes:
            with sqlite3.connect(path, timeout=0) as other:
                other.execute("BEGIN IMMEDIATE")  # raises "database is locked" inside a transaction of the gallery
            return bytes(31) + b"1"

        gallery.rotate_key(unlocked)
    with Gallery.open(path, model_id="m", dimension=128, key=lambda: bytes(31) + b"1") as gallery:
        assert len(gallery) == 0


def test_only_rows_are_called_damaged(path: Path, units: Draw) -> None:
    with Gallery.open(path, model_id="m", dimension=128) as gallery:
        gallery.add("one", units(1)[0])
        with pytest.raises(TypeError, match="a mistake"), gallery._store.database.writing():
            raise TypeError("a mistake")
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE people SET metadata = '{'")
        with pytest.raises(GalleryCorruptError, match="damaged"):
            gallery.people()
        with pytest.raises(GalleryCorruptError, match="damaged"):
            gallery.rename("one", "two")
