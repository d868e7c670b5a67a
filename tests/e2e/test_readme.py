"""The documents are true: commands and code blocks run as they stand, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgeface.engines.recipe import parse_recipe
from edgeface.tools.demo import demo_photo

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if path.is_file())
SET_UP = (
    'python3 -m pip install ".[host]" && edgeface demo',
    'python3 -m pip install -e ".[dev]" && python3 -m pytest',
)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", text)


@pytest.fixture
def folder(tmp_path: Path, with_models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the photographs that the README speaks of: Ada's, and one from the door."""
    shutil.copy(demo_photo("jacinda_ardern_2018.jpg"), tmp_path / "ada.jpg")
    shutil.copy(demo_photo("jacinda_ardern_2022.jpg"), tmp_path / "door.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_two_set_up_commands_come_first_and_are_those_that_the_checks_run() -> None:
    assert [block.strip() for block in blocks(README, "sh")[:2]] == list(SET_UP)
    run = (ROOT / ".ci/run").read_text()
    for command in SET_UP:
        assert command in run


def test_every_python_block_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = blocks(README, "python")
    assert len(found) >= 2
    for number, block in enumerate(found, 1):
        exec(compile(block, f"README.md, Python block {number}", "exec"), {"__name__": "readme"})
    out = capsys.readouterr().out
    assert out.startswith("Ada 0.")  # recognised at the door
    assert "match" in out.splitlines()[0]
    assert "('Ada',)" in out


def test_the_gallery_pages_python_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks((ROOT / "docs/gallery.md").read_text(encoding="utf-8"), "python")
    out: dict[str, Any] = {}
    exec(compile(block, "docs/gallery.md", "exec"), out)
    assert out["best"].names == ("ada",)


def test_every_command_line_runs(folder: Path, cli: Callable[..., Any]) -> None:
    lines = [line for block in blocks(README, "sh") for line in block.splitlines() if line.startswith("edgeface ")]
    assert len(lines) >= 5
    for line in lines:
        ran = cli(*shlex.split(line, comments=True)[1:])
        assert ran.code == 0, f"{line}\n{ran.err}"
        assert ran.out, line


def test_commands_that_the_documents_mention_exist(cli: Callable[..., Any]) -> None:
    """`edgeface eval pairs` in running text: the words up to the first option or argument are a command."""
    mentioned = set()
    for path in DOCUMENTS:
        for words in re.findall(r"`edgeface ([a-z][a-z ]*[a-z])", path.read_text(encoding="utf-8")):
            mentioned.add(words)
    assert {"demo", "eval pairs", "models fetch"} <= mentioned
    for words in sorted(mentioned):
        ran = cli(*words.split(), "--help")
        assert ran.code == 0, f"edgeface {words}: {ran.err}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(path: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```$", "", path.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_the_documented_recipe_is_a_recipe() -> None:
    text = (ROOT / "docs/formats/recipe.md").read_text(encoding="utf-8")
    example, liveness, thresholds = blocks(text, "toml")
    recipe = parse_recipe(example + thresholds, Path("/documented.toml"))
    assert recipe.thresholds is not None
    assert recipe.source.file == Path("/mobilefacenet.onnx")
    other = re.sub(r"(?ms)^\[(output|limits|build)\].*?(?=^\[)", "", example).replace('"embedder"', '"liveness"')
    model = parse_recipe(f'{other}\n[output]\nscores = "out"\n{liveness}', Path("/documented.toml")).liveness
    assert model is not None
    assert (model.classes, model.live) == (("print", "live", "screen"), "live")


def test_credits_name_every_photograph_and_model() -> None:
    text = (ROOT / "CREDITS.md").read_text(encoding="utf-8")
    shipped = sorted(path.name for path in demo_photo("").iterdir() if path.suffix == ".jpg")
    assert sorted(re.findall(r"`(\w+\.jpg)`", text)) == shipped
    for licence in ("CC BY-SA", "CC BY 3.0", "public domain", "Apache-2.0", "MIT"):
        assert licence in text
