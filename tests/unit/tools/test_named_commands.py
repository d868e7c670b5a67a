"""Commands that messages tell people to run: their names and options are those of the command line."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from edgeface.tools.main import COMMANDS, cli

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
FOLDERS = ("edgeface", "engines", "tools")
VALUE = "VALUE"  # stands for what a message fills in


def texts(file: Path) -> Iterator[str]:
    """Every text of a module, as one even where the source breaks it, with VALUE for what is filled in."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def commands(text: str) -> list[str]:
    """What a text tells to run: in backquotes, or the whole text where it begins with a command."""
    named: list[str] = re.findall(r"`(edgeface\s[^`]*)`", text)
    words = text.split()
    if len(words) > 1 and words[0] == "edgeface" and words[1] in COMMANDS:
        named.append(text)
    return named


def wrong(line: str) -> str | None:
    """What the command line would not understand, or None."""
    found: click.Command = cli
    context = cli.make_context("edgeface", [], resilient_parsing=True)
    words = line.split()[1:]
    while words and isinstance(found, click.Group) and not words[0].startswith("-"):
        name = words.pop(0)
        if name == "NAME":  # any of them
            return None
        deeper = found.get_command(context, name)
        if deeper is None:
            return f"no command {name!r}"
        found = deeper
    options = [option for option in found.get_params(context) if isinstance(option, click.Option)]
    given = {word.partition("=")[0] for word in words if word.startswith("-")}
    unknown = given - {spelling for option in options for spelling in (*option.opts, *option.secondary_opts)}
    if unknown:
        return f"no options {sorted(unknown)}"
    if any(words[-1:] == [spelling] for o in options if not o.is_flag for spelling in o.opts):
        return None  # speaks of an option, and is no line to type
    lacking = [o.opts[0] for o in options if o.required and not o.envvar and not given & set(o.opts)]
    return f"lacks {lacking}" if given and lacking else None


NAMED = sorted(
    {
        (str(file.relative_to(ROOT)), " ".join(line.split()))
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("*.py")
        for text in texts(file)
        for line in commands(text)
    }
)


@pytest.mark.parametrize(("file", "line"), NAMED)
def test_a_command_that_is_named_can_be_run(file: str, line: str) -> None:
    assert wrong(line) is None, f"{file}: `{line}`"


def test_commands_are_found_and_wrong_ones_told() -> None:
    assert ("edgeface/runtime/choice.py", "edgeface build VALUE --precision VALUE --calibration FOLDER") in NAMED
    assert wrong("edgeface frobnicate") == "no command 'frobnicate'"
    assert wrong("edgeface models frobnicate") == "no command 'frobnicate'"
    assert wrong("edgeface models fetch --frobnicate X") == "no options ['--frobnicate']"
    assert wrong("edgeface build yunet --precision int8") == "lacks ['--calibration']"
