"""The model folder, and files that get there whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from edgeface.errors import ConfigurationError, InputError
from edgeface.home import home, model_path, remove_stale, try_folder, write_atomically
from edgeface.runtime.stage import Stage


def test_the_variable_chooses_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFACE_HOME", str(tmp_path / "elsewhere"))
    assert home() == tmp_path / "elsewhere"
    assert model_path("sface") == tmp_path / "elsewhere/models/sface.fp32.onnx"
    assert model_path("sface", "int8").name == "sface.int8.onnx"


def test_a_relative_folder_and_a_tilde_are_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEFACE_HOME", "models here")
    assert home() == tmp_path / "models here"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("EDGEFACE_HOME", "~/faces")
    assert home() == tmp_path / "faces"


def test_a_relative_folder_holds_when_the_process_changes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEFACE_HOME", "models of a daemon")
    monkeypatch.chdir(tmp_path)
    assert home() == tmp_path / "models of a daemon"
    monkeypatch.chdir("/")
    assert home() == tmp_path / "models of a daemon"


def test_a_current_folder_that_is_gone_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setenv("EDGEFACE_HOME", "models of nowhere")
    with pytest.raises(ConfigurationError, match=r"cannot resolve .*'models of nowhere'.*give a full path"):
        home()
    with ExitStack() as owned, pytest.raises(InputError, match=r"detector: path: 'a\.onnx' is relative, and"):
        Stage({"detector": "a.onnx"}, {"detector": {}}, owned)


def test_a_tilde_of_nobody_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFACE_HOME", "~nosuchuser/x")
    with pytest.raises(ConfigurationError, match=r"EDGEFACE_HOME: cannot resolve the home folder in '~nosuchuser/x'"):
        home()


def test_without_it_the_users_cache_folder_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEFACE_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert home() == tmp_path / "edgeface"


def test_a_variable_that_is_set_to_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEFACE_HOME", "")
    with pytest.raises(ConfigurationError, match="EDGEFACE_HOME is set but is no path"):
        home()


def test_a_file_is_written_with_its_folders_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "a/b/c.bin"
    write_atomically(path, b"one", mode=0o600)
    write_atomically(path, b"two", mode=0o640)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(path.parent) == ["c.bin"]


@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    call: str, failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(f"edgeface.home.os.{call}", fail)
    with pytest.raises(type(failure)):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_a_disk_that_takes_only_a_part_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A real limit on the length of files: the write stops in the middle.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signals = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_atomically(tmp_path / "model.onnx", bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, signals)
    assert os.listdir(tmp_path) == []


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    program = (
        "import os, signal\nfrom pathlib import Path\nfrom edgeface.home import write_atomically\n"
        "os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"write_atomically(Path({str(path)!r}), b'new')"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    write_atomically(path, b"newer")
    assert path.read_bytes() == b"newer"


def test_a_folder_that_cannot_be_made_is_the_systems_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file/model.onnx", b"new")


def test_what_killed_processes_left_goes_after_a_day(tmp_path: Path) -> None:
    for name in (".old.part", ".new.part", "kept"):
        (tmp_path / name).write_text("")
    (tmp_path / ".folder.part").mkdir()
    (tmp_path / ".folder.part" / "file").write_text("")
    for name in (".old.part", ".folder.part", "kept"):
        os.utime(tmp_path / name, (0, 0))
    remove_stale(tmp_path, ".*.part")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new.part", "kept"]
    remove_stale(tmp_path / "none", "*")


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    try_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file" / "a", tmp_path / ("x" * 300), Path("/proc/edgeface")):
        with pytest.raises(OSError, match=r"Not a directory|too long|No such file"):
            try_folder(folder)
