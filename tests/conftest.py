"""What the tests share: a model folder of their own, the photographs of the demo, the command line in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgeface import FaceRecognizer
from edgeface.engines import models
from edgeface.engines.recipe import load_recipe
from edgeface.errors import EdgefaceError
from edgeface.photos import read_photo
from edgeface.tools.demo import demo_photo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgeface.types import ByteArray

PHOTOS = (
    "barack_obama_2005",
    "emmanuel_macron_2014",
    "emmanuel_macron_2025",
    "jacinda_ardern_2018",
    "jacinda_ardern_2022",
    "rishi_sunak_2020",
)


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON on standard output, as strict parsers read it."""

        def refuse(word: str) -> None:
            raise AssertionError(f"{word} is no JSON")

        return json.loads(self.out, parse_constant=refuse)


@dataclass
class CommandLine:
    """Runs `edgeface` in a process of its own, with an environment that can be added to."""

    environment: dict[str, str] = field(default_factory=dict)

    def __call__(self, *words: str | Path, cwd: Path | None = None, timeout_s: float = 120) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "edgeface.tools", *map(str, words)],
            env={**os.environ, **self.environment},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def model_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with the default models, linked from the user's own, where they are fetched once.

    Tests write beside them without touching the user's folder.
    """
    try:
        stored = models.ensure([load_recipe("yunet"), load_recipe("sface")])
    except EdgefaceError as error:
        pytest.fail(f"the tests need the two default models: {error}", pytrace=False)
    folder = tmp_path_factory.mktemp("home")
    (folder / "models").mkdir()
    for path in stored:
        for name in (path.name, f"{path.name}.json"):
            (folder / "models" / name).symlink_to(path.with_name(name))
    return folder


@pytest.fixture
def with_models(model_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """EDGEFACE_HOME is a folder with the default models, and there is no package index."""
    monkeypatch.setenv("EDGEFACE_HOME", str(model_home))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return model_home


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """EDGEFACE_HOME is a folder that does not exist yet, and there is no package index."""
    folder = tmp_path / "home"
    monkeypatch.setenv("EDGEFACE_HOME", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    return folder


@pytest.fixture
def edgeface() -> CommandLine:
    """`edgeface(...)` runs the command line in a process of its own."""
    return CommandLine()


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`cli(...)` runs the command line's entry point in this process: the same path, without the start of Python."""
    from edgeface.tools.main import main

    def run(*words: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["edgeface", *map(str, words)])
        capsys.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return Ran(code if isinstance(code, int) else 0 if code is None else 1, out, err)

    return run


@pytest.fixture(scope="session")
def photos() -> dict[str, ByteArray]:
    """The demo's photographs, (H, W, 3) uint8 BGR, by name; each with one face."""
    loaded = {name: read_photo(demo_photo(f"{name}.jpg")) for name in PHOTOS}
    for photo in loaded.values():
        photo.flags.writeable = False
    return loaded


@pytest.fixture(scope="session")
def recognizer(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaceRecognizer]:
    """A recogniser of the default models with an empty gallery, for tests that do not enrol."""
    gallery = tmp_path_factory.mktemp("gallery") / "empty.gallery"
    models_folder = model_home / "models"
    with FaceRecognizer.open(
        gallery, detector=models_folder / "yunet.fp32.onnx", embedder=models_folder / "sface.fp32.onnx"
    ) as opened:
        yield opened
