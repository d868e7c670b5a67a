"""The export file: round trips, and hostile or damaged files. `docs/formats/gallery-export.md`."""

from __future__ import annotations

import hashlib
import json
import stat
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgeface.errors import GalleryError, GalleryFormatError, GalleryMismatchError, PersonExistsError
from edgeface.gallery import Gallery
from edgeface.gallery.exchange import PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt


def unit_rows(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, 128))
    unit: npt.NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery.open(tmp_path / "a.gallery", model_id="m", dimension=128) as opened:
        opened.add("ada", unit_rows(2), qualities=[0.5, 1.0], source_hashes=["x", "y"], metadata={"badge": 7})
        opened.add("Zoë", unit_rows(1, 1))
        yield opened


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Gallery]:
    with Gallery.open(tmp_path / "b.gallery", model_id="m", dimension=128) as opened:
        yield opened


def rebuilt(content: bytes, change: Callable[[dict[str, Any]], object], cut: int = 0) -> bytes:
    """The export with a changed header and a checksum that holds again, as a hostile writer would make it."""
    magic, version, length = PREFIX.unpack_from(content)
    header = json.loads(content[PREFIX.size : PREFIX.size + length])
    change(header)
    text = json.dumps(header).encode()
    payload = content[PREFIX.size + length : -32]
    body = PREFIX.pack(magic, version, len(text)) + text + payload[: len(payload) - cut]
    return body + hashlib.sha256(body).digest()


def test_a_round_trip_keeps_everything_but_the_ids(gallery: Gallery, other: Gallery, tmp_path: Path) -> None:
    file = tmp_path / "out.export"
    assert gallery.export(file) == 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    other.add("first", unit_rows(1, 5))
    assert other.import_(file) == 2
    for before, after in zip(gallery.people(), other.people()[1:], strict=True):
        assert (before.name, before.metadata, before.templates) == (after.name, after.metadata, after.templates)
        assert (before.created, before.updated) == (after.created, after.updated)
    assert other.search(unit_rows(2)[1])[0].names[0] == "ada"
    again = tmp_path / "again.export"
    other.remove("first")
    other.export(again)
    assert again.read_bytes() == file.read_bytes()


def test_float32_exports_go_into_int8_galleries_but_not_back(other: Gallery, tmp_path: Path) -> None:
    file = tmp_path / "out.export"
    with Gallery.open(tmp_path / "f", model_id="m", dimension=128, template="float32") as wide:
        wide.add("ada", unit_rows(3))
        wide.export(file)
        assert other.import_(file) == 1
        assert other.search(unit_rows(3)[2])[0].similarities[0] > 0.999
        other.export(file)
        wide.remove("ada")
        with pytest.raises(GalleryMismatchError, match="int8"):
            wide.import_(file)


def test_a_taken_name_stops_the_whole_import(gallery: Gallery, other: Gallery, tmp_path: Path) -> None:
    gallery.export(tmp_path / "out")
    other.add("Zoë", unit_rows(1))
    with pytest.raises(PersonExistsError, match="Zoë"):
        other.import_(tmp_path / "out")
    assert [one.name for one in other.people()] == ["Zoë"]


def test_every_truncation_and_every_flipped_byte_is_refused(gallery: Gallery, other: Gallery, tmp_path: Path) -> None:
    file = tmp_path / "out"
    gallery.export(file)
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(GalleryFormatError):
            other.import_(file)
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(GalleryFormatError):
            other.import_(file)
    assert len(other) == 0


def _person(header: dict[str, Any]) -> dict[str, Any]:
    person: dict[str, Any] = header["people"][0]
    return person


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], type[GalleryError]]] = {
    "other model": (lambda h: h.update(model_id="x"), GalleryMismatchError),
    "other size": (lambda h: h.update(dimension=64), GalleryMismatchError),
    "no model": (lambda h: h.pop("model_id"), GalleryFormatError),
    "size is true": (lambda h: h.update(dimension=True), GalleryFormatError),
    "other scale": (lambda h: h.update(scale=0.1), GalleryMismatchError),
    "scale is nothing": (lambda h: h.update(scale=None), GalleryFormatError),
    "scale is huge": (lambda h: h.update(scale=10**400), GalleryFormatError),
    "unknown encoding": (lambda h: h.update(encoding="int4"), GalleryFormatError),
    "people are no list": (lambda h: h.update(people={}), GalleryFormatError),
    "person is no object": (lambda h: h["people"].append(3), GalleryFormatError),
    "too many people": (lambda h: h["people"].append(_person(h)), GalleryFormatError),
    "one person fewer": (lambda h: h["people"].pop(), GalleryFormatError),
    "name is a number": (lambda h: _person(h).update(name=3), GalleryFormatError),
    "name is too long": (lambda h: _person(h).update(name="x" * 300), GalleryFormatError),
    "name is half a surrogate": (lambda h: _person(h).update(name="\ud800"), GalleryFormatError),
    "name with a control character": (lambda h: _person(h).update(name="a\x1b[2J"), GalleryFormatError),
    "the same name twice": (lambda h: h["people"][1].update(name="ada"), PersonExistsError),
    "metadata is a list": (lambda h: _person(h).update(metadata=[]), GalleryFormatError),
    "metadata is huge": (lambda h: _person(h).update(metadata={"a": "x" * 70_000}), GalleryFormatError),
    "time is text": (lambda h: _person(h).update(created_ms="now"), GalleryFormatError),
    "time is negative": (lambda h: _person(h).update(updated_ms=-1), GalleryFormatError),
    "time is beyond all": (lambda h: _person(h).update(updated_ms=1 << 62), GalleryFormatError),
    "template is no object": (lambda h: _person(h)["templates"].append(None), GalleryFormatError),
    "quality is text": (lambda h: _person(h)["templates"][0].update(quality="good"), GalleryFormatError),
    "hash is long": (lambda h: _person(h)["templates"][0].update(source_hash="x" * 200), GalleryFormatError),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_headers_are_refused_whole(gallery: Gallery, other: Gallery, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "out"
    gallery.export(file)
    change, error = HOSTILE[kind]
    file.write_bytes(rebuilt(file.read_bytes(), change))
    with pytest.raises(error):
        other.import_(file)
    assert len(other) == 0


def test_hostile_payloads_are_refused(gallery: Gallery, other: Gallery, tmp_path: Path) -> None:
    file = tmp_path / "out"
    gallery.export(file)
    whole = file.read_bytes()
    file.write_bytes(rebuilt(whole, lambda h: None, cut=1))
    with pytest.raises(GalleryFormatError, match="expected 3 templates"):
        other.import_(file)
    for filler in (b"\0", b"\x80", b"\x7f"):  # no length, a component that int8 templates never have, far too long
        body = whole[: -32 - 128] + filler * 128
        file.write_bytes(body + hashlib.sha256(body).digest())
        with pytest.raises(GalleryFormatError, match="length"):
            other.import_(file)
    for text in (b"[]", b"{", b"[" * 100_000, b"\xff", b'{"people": ' + b"9" * 5000 + b"}"):
        body = PREFIX.pack(b"EFGALEXP", 1, len(text)) + text
        file.write_bytes(body + hashlib.sha256(body).digest())
        with pytest.raises(GalleryFormatError):
            other.import_(file)
    for prefix in (PREFIX.pack(b"EFGALEXP", 2, 2), PREFIX.pack(b"EFGALEXP", 1, 1 << 60)):
        body = prefix + b"{}"
        file.write_bytes(body + hashlib.sha256(body).digest())
        with pytest.raises(GalleryFormatError):
            other.import_(file)
    assert len(other) == 0


def test_an_export_that_cannot_be_written_leaves_nothing(gallery: Gallery, tmp_path: Path) -> None:
    with pytest.raises(GalleryError, match="cannot write"):
        gallery.export(tmp_path / "no such folder" / "out")
    taken = tmp_path / "taken"
    taken.mkdir()
    before = {one.name for one in tmp_path.iterdir()}
    with pytest.raises(GalleryError, match="cannot write"):
        gallery.export(taken)
    assert {one.name for one in tmp_path.iterdir()} == before
    with pytest.raises(GalleryError, match="cannot read"):
        gallery.import_(tmp_path / "absent")
