"""What the package says of itself: its licences, its version, and the folders that a source distribution carries."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgeface

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_licence_names_that_of_every_photograph() -> None:
    rows = re.findall(r"^\| `(\w+\.jpg)` \|.*\| ([^|]+) \| [^|]+ \|$", (ROOT / "CREDITS.md").read_text(), re.MULTILINE)
    assert {name for name, _ in rows} == {path.name for path in (ROOT / "tools/demo_photos").iterdir()}
    # [CC BY-SA 3.0 FR](address) is CC-BY-SA-3.0 in SPDX's list, which has no name for the port
    named = {text.strip("[").partition("]")[0].replace(" ", "-").removesuffix("-FR") for _, text in rows}
    assert set(PROJECT["license"].split(" AND ")) == {"Apache-2.0"} | named - {"public-domain"}


def test_the_version_stands_once() -> None:
    assert "version" not in PROJECT
    assert "version" in PROJECT["dynamic"]
    module = ast.parse(Path(edgeface.__file__).read_text())
    values = [
        node.value
        for node in module.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__"
    ]
    assert [ast.literal_eval(value) for value in values] == [edgeface.__version__]  # a build cannot import edgeface


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout: git lists no files")
def test_the_source_distribution_has_every_folder() -> None:
    setup = (ROOT / "setup.py").read_text()
    packed = set(re.findall(r"^graft (\S+)$", (ROOT / "MANIFEST.in").read_text(), re.MULTILINE))
    packed |= {path.split("/")[0] for path in re.findall(r'^    "edgeface[\w.]*": "([\w/]+)",$', setup, re.MULTILINE)}
    assert {"edgeface", "engines", "tools", "tests", ".ci"} <= packed
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split("/")[0] for line in listed.splitlines() if "/" in line} == packed
