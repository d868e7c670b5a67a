"""`edgeface gallery` as a user calls it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgeface.gallery import Gallery
from edgeface.tools.demo import demo_photo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any


def call(*words: object, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "edgeface.tools", "gallery", *(str(word) for word in words)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 or done.stdout else done.stderr


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).standard_normal((3, 128))
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    path = tmp_path / "kiosk.gallery"
    with Gallery.open(path, model_id="m", dimension=128) as gallery:
        gallery.add("ada", unit[:2], metadata={"badge": 7})
        gallery.add("bob", unit[2])
    return path


def test_a_day_with_a_gallery(path: Path, tmp_path: Path) -> None:
    listed = json.loads(call("list", "--gallery", path, "--json"))
    assert [(one["name"], one["templates"], one["metadata"]) for one in listed["people"]] == [
        ("ada", 2, {"badge": 7}),
        ("bob", 1, {}),
    ]
    assert "ada" in call("list", "--gallery", path)
    call("rename", "ada", "ada lovelace", "--gallery", path)
    call("backup", tmp_path / "copy", "--gallery", path)
    call("export", tmp_path / "out", "--gallery", path)
    call("remove", "bob", "ada lovelace", "--gallery", path)
    assert "nobody" in call("list", "--gallery", path)
    assert "2 people added" in call("import", tmp_path / "out", "--gallery", path)
    assert "2 people added" in call("import", tmp_path / "out", "--gallery", tmp_path / "new.gallery")
    assert json.loads(call("stats", "--gallery", tmp_path / "new.gallery", "--json"))["templates"] == 3
    assert "model_id" in call("stats", "--gallery", tmp_path / "copy")
    assert "sound" in call("check", "--gallery", path)


def test_failures_are_one_line_and_exit_with_1_and_wrong_usage_with_2(path: Path, tmp_path: Path) -> None:
    for words, said in (
        (("remove", "eve", "--gallery", path), "nobody named 'eve'"),
        (("rename", "ada", "bob", "--gallery", path), "taken"),
        (("list", "--gallery", tmp_path / "absent"), "no such gallery"),
        (("import", path, "--gallery", path), "not a gallery export"),
    ):
        told = call(*words, code=1)
        assert said in told
        assert told.count("\n") == 1
    assert not (tmp_path / "absent").exists()
    call("list", code=2)
    call("remove", "--gallery", path, code=2)
    call("nonsense", code=2)


def test_check_finds_and_repairs(path: Path) -> None:
    path.chmod(0o644)
    report = json.loads(call("check", "--gallery", path, "--json", code=1))
    assert "0644" in report["problems"][0]
    assert "0600" in call("check", "--repair", "--gallery", path)
    assert "sound" in call("check", "--gallery", path)


def test_an_encrypted_gallery_serves_every_command_that_uses_one(
    tmp_path: Path, with_models: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cryptography", reason="encrypted galleries need the extra 'security'")
    monkeypatch.delenv("EDGEFACE_GALLERY_KEY_FILE", raising=False)
    path, key, photo = tmp_path / "kiosk.gallery", tmp_path / "gallery.key", demo_photo("barack_obama_2005.jpg")
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    assert cli("enroll", "Barack", photo, "--gallery", path, "--key-file", key).code == 0
    with Gallery.open(path, model_id=None, key=lambda: bytes(range(32))) as gallery:
        assert gallery.encrypted
    refused = cli("identify", photo, "--gallery", path)
    assert refused.code == 1
    assert "is encrypted; give its key: `key=` in Python, --key-file on the command line" in refused.err
    monkeypatch.setenv("EDGEFACE_GALLERY_KEY_FILE", str(key))
    found = json.loads(cli("identify", photo, "--gallery", path, "--json").out)
    assert found["photos"][0]["faces"][0]["name"] == "Barack"
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(8):
        (pictures / f"{number}.jpg").write_bytes(photo.read_bytes())
    watched = cli("watch", pictures, "--gallery", path)
    assert watched.code == 0, watched.err
    assert "Barack" in watched.out


@pytest.mark.parametrize("name", ["", " ", "a\nb", "x" * 201])
def test_what_is_no_name_is_wrong_usage(name: str, path: Path) -> None:
    assert "Invalid value for 'NEW'" in call("rename", "ada", name, "--gallery", path, code=2)
