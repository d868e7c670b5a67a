"""Export and import: one portable file, specified in `docs/formats/gallery-export.md`."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeface.errors import GalleryError, GalleryFormatError, GalleryMismatchError, InputError, PersonExistsError
from edgeface.gallery.person import check_name, pack_metadata
from edgeface.gallery.store import prune
from edgeface.gallery.template_info import TemplateInfo
from edgeface.gallery.vectors import UNIT_TOLERANCE, Codec, check_stored
from edgeface.home import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from edgeface.gallery.store import Store
    from edgeface.gallery.vectors import RowArray

MAGIC = b"EFGALEXP"
VERSION = 1
#: magic, version, length of the header
PREFIX = struct.Struct("<8sIQ")
DIGEST_BYTES = 32


def write(store: Store, path: Path) -> int:
    """Write everybody to `path`; returns the number of people."""
    people: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    with store.database.reading() as connection:
        by_id: dict[int, dict[str, Any]] = {}
        for person_id, name, metadata, created, updated in connection.execute(
            "SELECT person_id, name, metadata, created_ms, updated_ms FROM people ORDER BY person_id"
        ):
            by_id[person_id] = {
                "name": name,
                "metadata": json.loads(metadata),
                "created_ms": created,
                "updated_ms": updated,
                "templates": [],
            }
        people.extend(by_id.values())
        for template_id, person_id, data, checksum, wrapped, quality, source, created in connection.execute(
            "SELECT template_id, person_id, data, checksum, wrapped, quality, source_hash, created_ms "
            "FROM templates LEFT JOIN person_keys USING (person_id) ORDER BY person_id, template_id"
        ):
            check_stored(template_id, person_id, data, checksum, store.stored_bytes)
            by_id[person_id]["templates"].append({"quality": quality, "source_hash": source, "created_ms": created})
            blobs += store.opened([(template_id, person_id, data, checksum, wrapped)])
    header = json.dumps(
        {
            "model_id": store.model_id,
            "dimension": store.codec.dimension,
            "encoding": store.codec.encoding,
            "scale": store.codec.scale,
            "people": people,
        },
        ensure_ascii=False,
    ).encode("utf-8")
    prefix = PREFIX.pack(MAGIC, VERSION, len(header))
    digest = hashlib.sha256(prefix + header)
    for blob in blobs:
        digest.update(blob)
    try:
        write_atomically(path, [prefix, header, *blobs, digest.digest()], mode=0o600)
    except OSError as error:
        raise GalleryError(f"{path}: cannot write it: {error.strerror}; nothing was replaced") from error
    return len(people)


def describe(path: Path) -> tuple[str, int, str, int]:
    """(model id, dimension, encoding, people) of an export whose checksum holds."""
    header, _ = _open(path)
    return (
        _field(header, "model_id", str, path),
        _field(header, "dimension", int, path),
        _field(header, "encoding", str, path),
        len(_field(header, "people", list, path)),
    )


def read(store: Store, path: Path) -> int:
    """Add everybody of the file at `path` in one transaction; returns the number of people."""
    header, payload = _open(path)
    model = _field(header, "model_id", str, path), _field(header, "dimension", int, path)
    if model != (store.model_id, store.codec.dimension):
        raise GalleryMismatchError(
            f"{path}: holds templates of model {model[0]!r} with {model[1]} components, the gallery {store.path} those "
            f"of {store.model_id!r} with {store.codec.dimension}; enrol from photographs instead"
        )
    encoding, scale = _field(header, "encoding", str, path), _field(header, "scale", float, path)
    if encoding not in ("int8", "float32"):
        raise GalleryFormatError(f"{path}: encoding: expected 'int8' or 'float32', got {encoding!r}")
    if encoding == "int8" and (encoding, scale) != (store.codec.encoding, store.codec.scale):
        raise GalleryMismatchError(
            f"{path}: holds int8 templates of scale {scale:.6g}, the gallery {store.path} {store.codec.encoding} ones "
            f"of scale {store.codec.scale:.6g}; import it into a gallery created with template='int8'"
        )
    people = [_person(one, f"{path}: people[{i}]") for i, one in enumerate(_field(header, "people", list, path))]
    count = sum(len(infos) for *_, infos, _ in people)
    theirs = Codec(store.codec.dimension, "int8" if encoding == "int8" else "float32", scale)
    if len(payload) != count * theirs.size:
        raise GalleryFormatError(
            f"{path}: expected {count} templates of {theirs.size} bytes, got {len(payload)} bytes of them"
        )
    rows = theirs.decode([payload])
    rows = _converted(store, theirs, rows, path)
    with store.database.writing() as connection:
        at = 0
        for name, metadata, created, updated, infos, times in people:
            if connection.execute("SELECT 1 FROM people WHERE name = ?", (name,)).fetchone():
                raise PersonExistsError(
                    f"{store.path}: {name!r} of {path} is enrolled already; nothing was imported; rename or remove "
                    "them first"
                )
            person_id = store.insert_person(connection, name, metadata, created, updated)
            store.insert_templates(connection, person_id, rows[at : at + len(infos)], infos, times)
            at += len(infos)
        prune(connection)
    return len(people)


def _converted(store: Store, theirs: Codec, rows: RowArray, path: Path) -> RowArray:
    """Their rows in the gallery's encoding, refused when they are no unit vectors."""
    if theirs.encoding == "int8":
        # Cut-off components shorten a row, rounding hardly changes it; `add` stores nothing outside this.
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64)) * theirs.scale
        wrong = (np.abs(lengths - 1.0) > 0.1) | (rows == -128).any(axis=1)
    else:
        lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
        wrong = ~(np.abs(lengths - 1.0) <= UNIT_TOLERANCE)
    if wrong.any():
        number = int(np.flatnonzero(wrong)[0])
        raise GalleryFormatError(f"{path}: template {number} has length {lengths[number]:.4g}, expected 1")
    if theirs.encoding == store.codec.encoding:
        return rows
    try:
        return store.codec.encode(rows.astype(np.float32))
    except InputError as error:
        raise GalleryMismatchError(f"{path}: {error}") from error


def _open(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and payload of an export whose checksum holds."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GalleryError(f"{path}: cannot read it: {error.strerror}") from error
    if len(content) < PREFIX.size + DIGEST_BYTES or not content.startswith(MAGIC):
        raise GalleryFormatError(
            f"{path}: not a gallery export (`edgeface gallery export FILE --gallery PATH` writes one)"
        )
    _, version, length = PREFIX.unpack_from(content)
    if version != VERSION:
        raise GalleryFormatError(f"{path}: export version {version}, this edgeface reads {VERSION}; update edgeface")
    body, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise GalleryFormatError(f"{path}: damaged or cut short: its SHA-256 does not hold; export again")
    if length > len(body) - PREFIX.size:
        raise GalleryFormatError(f"{path}: the header is said to have {length} bytes, more than the file")
    try:
        header = json.loads(body[PREFIX.size : PREFIX.size + length].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise GalleryFormatError(f"{path}: the header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise GalleryFormatError(f"{path}: the header is not a JSON object")
    return header, body[PREFIX.size + length :]


def _person(given: object, where: str) -> tuple[str, str, int, int, list[TemplateInfo], list[int]]:
    """(name, metadata, created, updated, infos, creation times of the templates), checked."""
    if not isinstance(given, dict):
        raise GalleryFormatError(f"{where}: expected an object, got {type(given).__name__}")
    try:
        name = check_name(where, given.get("name"))
        metadata = pack_metadata(where, _field(given, "metadata", dict, where))
    except InputError as error:
        raise GalleryFormatError(str(error)) from None
    infos, times = [], []
    for one in _field(given, "templates", list, where):
        if not isinstance(one, dict):
            raise GalleryFormatError(f"{where}: templates: expected objects, got {type(one).__name__}")
        quality, source = one.get("quality"), one.get("source_hash")
        if quality is not None:
            quality = _field(one, "quality", float, where)
        if source is not None:
            source = _field(one, "source_hash", str, where)
            if len(source) > 128 or not source.isprintable():
                raise GalleryFormatError(f"{where}: source_hash: expected up to 128 printable characters")
        infos.append(TemplateInfo(quality, source))
        times.append(_moment(one, "created_ms", where))
    return (name, metadata, _moment(given, "created_ms", where), _moment(given, "updated_ms", where), infos, times)


def _moment(document: dict[str, Any], key: str, where: object) -> int:
    value: int = _field(document, key, int, where)
    if not 0 <= value < 253_402_300_800_000:  # the year 10000: ISO 8601 with four digits ends there
        raise GalleryFormatError(f"{where}: {key}: expected milliseconds since 1970, got {value}")
    return value


def _field(document: dict[str, Any], key: str, kind: type, where: object) -> Any:
    value: Any = document.get(key)
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53:
        value = float(value)
    endless = isinstance(value, float) and not math.isfinite(value)
    if endless or isinstance(value, bool) or not isinstance(value, kind):
        raise GalleryFormatError(f"{where}: {key}: expected {kind.__name__}, got {type(value).__name__}")
    return value
