"""The pages of docs/ are true: the door opens, tables are whole, links lead to headings."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from edgeface.tools.demo import demo_photo

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", text)


@pytest.fixture
def door(tmp_path: Path, with_models: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Runs the door of docs/door.md in a folder of its own, with copies of one photograph for a camera."""
    monkeypatch.chdir(tmp_path)
    (program,) = blocks(page("docs/door.md"), "python")

    def run(photo: str) -> None:
        camera = tmp_path / photo
        camera.mkdir()
        for number in range(5):
            shutil.copy(demo_photo(f"{photo}.jpg"), camera / f"{number}.jpg")
        monkeypatch.setattr(sys, "argv", ["door.py", str(camera)])
        exec(compile(program, "docs/door.md", "exec"), {"__name__": "__main__"})

    return run


def test_the_door_opens_once_for_those_who_are_enrolled(
    door: Callable[[str], None], cli: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("enroll", "Ada", demo_photo("jacinda_ardern_2018.jpg"), "--gallery", "door.gallery").code == 0
    door("jacinda_ardern_2022")
    assert re.fullmatch(r"open for Ada, similarity 0\.\d\d\n", capsys.readouterr().out)
    door("rishi_sunak_2020")
    assert capsys.readouterr().out == ""


def test_a_door_without_anybody_enrolled_says_how_to_enrol(door: Callable[[str], None]) -> None:
    with pytest.raises(SystemExit, match=r"edgeface enroll Ada --camera 0 --gallery door\.gallery"):
        door("rishi_sunak_2020")


def test_the_doors_command_lines_are_commands() -> None:
    """Parsed, not run: there is no camera."""
    from edgeface.tools.main import cli

    lines = [line for block in blocks(page("docs/door.md"), "sh") for line in block.splitlines()]
    lines = [line for line in lines if line.startswith("edgeface ")]
    assert len(lines) >= 4
    for line in lines:
        words = shlex.split(line)[1:]
        command: click.Command | None = cli
        while isinstance(command, click.Group):
            command = command.get_command(click.Context(command), words.pop(0))
        assert command is not None, line
        command.make_context(line, words)  # raises a usage error


def heading_ids(path: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = re.sub(r"(?ms)^```.*?^```$", "", path.read_text(encoding="utf-8"))
    found = re.findall(r"(?m)^#+ (.+)$", text)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_headings_lead_to_one(path: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```$", "", path.read_text(encoding="utf-8"))
    for target, anchor in re.findall(r"\]\(([^)\s#:]*\.md|)#([^)]+)\)", text):
        there = heading_ids(path.parent / target if target else path)
        assert anchor in there, f"{path.name} links to {target}#{anchor}"
