"""The golden cases of the C++ tests are what the numpy reference says today."""

from __future__ import annotations

import runpy
from pathlib import Path

NATIVE = Path(__file__).parents[1] / "native"


def test_golden_file_is_what_its_script_writes() -> None:
    golden = runpy.run_path(str(NATIVE / "make_golden.py"))["golden"]()
    assert (NATIVE / "golden.bin").read_bytes() == golden, "run python tests/native/make_golden.py"
    assert len(golden) < 100 * 1024
