"""Encryption at rest: AES-256-GCM for every template under its person's key, and those keys under the gallery's key.

What this protects and what it does not stands in `docs/security.md`, the bytes in `docs/formats/gallery.md`.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeface.errors import GalleryCorruptError, GalleryKeyError, MissingDependencyError, install_extra

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    Key = Callable[[], bytes]

KEY_BYTES = 32
#: nonce before and tag behind every sealed value (NIST SP 800-38D: 96 and 128 bits)
NONCE_BYTES, TAG_BYTES = 12, 16
OVERHEAD_BYTES = NONCE_BYTES + TAG_BYTES

_KNOWN = b"edgeface gallery key"


def key_from_file(path: str | os.PathLike[str]) -> Key:
    """A key provider for `Gallery.open`: 32 bytes, or 64 hexadecimal digits, in a file that only its owner can read.

    A systemd credential may be such a file, too: its access list for the service's user shows as rights of the group.
    """

    def read() -> bytes:
        try:
            with open(path, "rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = file.read(1024)
        except OSError as error:
            raise GalleryKeyError(f"{path}: cannot read the gallery's key: {error.strerror}") from error
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        # As the system sees both: systemd's folder may be reached by a link, and a link in it lead elsewhere.
        given = credentials and os.path.dirname(os.path.realpath(path)) == os.path.realpath(credentials)
        shared = 0o037 if given else 0o077
        if stat.S_IMODE(mode) & shared:
            raise GalleryKeyError(f"{path}: others than the owner can reach the key; run `chmod 600 {path}`")
        return _parse(content, str(path))

    return read


def key_from_environment(name: str) -> Key:
    """A key provider for `Gallery.open`: 64 hexadecimal digits in an environment variable."""

    def read() -> bytes:
        if name not in os.environ:
            raise GalleryKeyError(f"the environment variable {name} with the gallery's key is not set")
        return _parse(os.environ[name].encode(), f"environment variable {name}")

    return read


def key_from_credential(name: str) -> Key:
    """A key provider for `Gallery.open`: a systemd credential (`LoadCredentialEncrypted=` in the service unit)."""

    def read() -> bytes:
        folder = os.environ.get("CREDENTIALS_DIRECTORY")
        if folder is None:
            raise GalleryKeyError(
                f"no systemd credentials here (CREDENTIALS_DIRECTORY is not set): the unit needs "
                f"LoadCredentialEncrypted={name}"
            )
        try:
            content = Path(folder, name).read_bytes()
        except OSError as error:
            raise GalleryKeyError(f"systemd credential {name}: {error.strerror}") from error
        return _parse(content, f"systemd credential {name}")

    return read


def _parse(content: bytes, where: str) -> bytes:
    if len(content) == KEY_BYTES:
        return content
    try:
        key = bytes.fromhex(content.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise GalleryKeyError(f"{where}: expected a key of 32 bytes or 64 hexadecimal digits")
    return key


class Vault:
    """Seals and opens the templates of one gallery. Safe from several threads."""

    def __init__(self, cipher: Any, gallery_id: str, model_id: str) -> None:
        """`cipher` is what `unlock` gives."""
        self._cipher = cipher
        self._gallery_id, self._model_id = gallery_id, model_id

    def proof(self) -> bytes:
        """A value that only this key can have sealed, to tell a wrong key at once."""
        return _seal(self._cipher, _KNOWN, self._bound("key"))

    def check(self, proof: bytes, path: Path) -> None:
        """Raises GalleryKeyError when another key made the proof."""
        if _open(self._cipher, proof, self._bound("key")) != _KNOWN:
            raise GalleryKeyError(
                f"{path}: the key given is not the one that the gallery was encrypted with (or was rotated to)"
            )

    def new_person(self, connection: sqlite3.Connection, person_id: int) -> None:
        """Draw and store a person's own key within the caller's transaction."""
        connection.execute(
            "INSERT INTO person_keys VALUES (?, ?)", (person_id, self._wrap(person_id, os.urandom(KEY_BYTES)))
        )

    def person_cipher(self, person_id: int, wrapped: bytes | None) -> Any:
        """The cipher of one person. Raises GalleryCorruptError."""
        key = None if wrapped is None else _open(self._cipher, wrapped, self._bound("person", person_id))
        if key is None:
            raise GalleryCorruptError(
                f"the key of person {person_id} is missing, was tampered with or belongs to somebody else; if the "
                "gallery's key was rotated meanwhile, open the gallery again with the new one"
            )
        return _cipher(key)

    def stored_cipher(self, connection: sqlite3.Connection, person_id: int) -> Any:
        """The cipher of one person from the caller's transaction."""
        row = connection.execute("SELECT wrapped FROM person_keys WHERE person_id = ?", (person_id,)).fetchone()
        return self.person_cipher(person_id, None if row is None else row[0])

    def seal(self, cipher: Any, template_id: int, person_id: int, data: bytes) -> bytes:
        """A template as it is stored: bound to its id, its person, the model and the gallery."""
        return _seal(cipher, data, self._bound("template", template_id, person_id, self._model_id))

    def open(self, cipher: Any, template_id: int, person_id: int, sealed: bytes) -> bytes:
        """The template. Raises GalleryCorruptError when it was changed or belongs elsewhere."""
        data = _open(cipher, sealed, self._bound("template", template_id, person_id, self._model_id))
        if data is None:
            raise GalleryCorruptError(
                f"template {template_id} of person {person_id} was tampered with, or belongs to somebody else; restore "
                "a backup, or remove the person and enrol them again"
            )
        return data

    def rotate(self, connection: sqlite3.Connection, fresh: Vault) -> None:
        """Wrap every person's key with the key of the vault `fresh`, within the caller's transaction."""
        for person_id, wrapped in connection.execute("SELECT person_id, wrapped FROM person_keys").fetchall():
            key = _open(self._cipher, wrapped, self._bound("person", person_id))
            if key is None:
                raise GalleryCorruptError(f"the key of person {person_id} was tampered with; nothing was rotated")
            connection.execute(
                "UPDATE person_keys SET wrapped = ? WHERE person_id = ?", (fresh._wrap(person_id, key), person_id)
            )
        connection.execute("UPDATE settings SET value = ? WHERE key = 'key_proof'", (fresh.proof().hex(),))

    def _wrap(self, person_id: int, key: bytes) -> bytes:
        return _seal(self._cipher, key, self._bound("person", person_id))

    def _bound(self, *words: object) -> bytes:
        """Associated data: what the sealed value belongs to. Lengths come first, so that no word runs into the next."""
        parts = [str(word).encode() for word in (self._gallery_id, *words)]
        return b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def unlock(provider: Key) -> Any:
    """Ask the provider for the gallery's key, once; returns its cipher.

    Raises GalleryKeyError, MissingDependencyError, and whatever the provider raises.
    """
    return _cipher(_ask(provider))


def _ask(provider: Key) -> bytes:
    if not callable(provider):
        raise GalleryKeyError(
            f"key: expected a function that returns {KEY_BYTES} bytes, such as key_from_file(path), got "
            f"{type(provider).__name__}"
        )
    key = provider()
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise GalleryKeyError(f"the key provider must return {KEY_BYTES} bytes")
    return key


def _cipher(key: bytes) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise MissingDependencyError(
            f"an encrypted gallery needs the package cryptography ({error}); {install_extra('security')}"
        ) from error
    return AESGCM(key)


def _seal(cipher: Any, data: bytes, bound: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    sealed: bytes = nonce + cipher.encrypt(nonce, data, bound)
    return sealed


def _open(cipher: Any, sealed: bytes, bound: bytes) -> bytes | None:
    from cryptography.exceptions import InvalidTag

    if len(sealed) < OVERHEAD_BYTES:
        return None
    try:
        data: bytes = cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound)
    except InvalidTag:
        return None
    return data
