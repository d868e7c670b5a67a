"""Compiling the CUDA kernels: what the file contains, and that no state of nvcc can break an installation."""

from __future__ import annotations

import json
import os
import runpy
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgeface.runtime import cuda_kernels

if TYPE_CHECKING:
    from collections.abc import Callable

SCRIPT = Path(__file__).parents[2] / "cpp_ext" / "cuda" / "fatbin.py"
PTX, ELF = 1, 2
LISTS = {
    "12.6": ("sm_50 sm_75 sm_80 sm_87 sm_89 sm_90 sm_90a", "compute_50 compute_75 compute_80 compute_87 compute_90a"),
    "13.2": ("sm_75 sm_87 sm_90 sm_100 sm_110 sm_110f sm_120", "compute_75 compute_87 compute_110 compute_120"),
    "14.0": ("sm_87 sm_110 sm_120 sm_130", "compute_87 compute_110 compute_120 compute_130"),
}


def entries(content: bytes) -> list[tuple[int, int]]:
    """Kind and architecture of every image in a fat binary, read from its headers."""
    magic, _, header, size = struct.unpack_from("<IHHQ", content)
    assert magic == 0xBA55ED50
    assert header + size == len(content)
    found, at = [], header
    while at < len(content):
        kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", content, at)
        found.append((kind, struct.unpack_from("<I", content, at + 28)[0]))
        at += entry_header + entry_size
    return found


@pytest.fixture
def build(tmp_path: Path) -> Callable[[], tuple[str, dict[str, Any]]]:
    """Compile into a folder: the line that was said, and the record."""

    def run() -> tuple[str, dict[str, Any]]:
        line: str = runpy.run_path(str(SCRIPT))["compile_kernels"](tmp_path / "out")
        return line, json.loads((tmp_path / "out/_cuda.json").read_text())

    return run


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], cuda_kernels.KernelFacts]:
    """What the SDK says of the folder."""
    monkeypatch.setattr(cuda_kernels, "FATBIN", tmp_path / "out/_cuda.fatbin")
    monkeypatch.setattr(cuda_kernels, "RECORD", tmp_path / "out/_cuda.json")
    return cuda_kernels.kernel_facts


Build = Any
Facts = Any


def test_the_real_nvcc(build: Build, facts: Facts, tmp_path: Path) -> None:
    script = runpy.run_path(str(SCRIPT))
    try:
        nvcc = script["find_nvcc"]()
    except script["NotBuilt"] as reason:
        pytest.skip(str(reason))
    line, record = build()
    assert record["absent"] == "", line
    images = entries((tmp_path / "out/_cuda.fatbin").read_bytes())
    virtual = [number for kind, number in images if kind == PTX]
    assert virtual == [75] or script["listed"](nvcc, "arch")[0] > 75
    listed = script["listed"](nvcc, "code")
    assert {number for kind, number in images if kind == ELF} == {87, 90, 110, 120} & set(listed)
    assert 87 in listed, "the boards' own architecture"
    assert record["targets"] == [*(f"sm_{n}" for kind, n in sorted(images) if kind == ELF), f"PTX compute_{virtual[0]}"]
    assert facts().built
    assert "sm_87" in facts().says
    (tmp_path / "out/_cuda.fatbin").write_bytes(b"another")
    assert not facts().built
    assert "is not the file that the build made" in facts().says
    (tmp_path / "out/_cuda.fatbin").unlink()
    assert "cannot be read" in facts().says


@pytest.fixture
def nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`nvcc(version)`: a compiler that lists what that version of CUDA lists, and writes its options as its output."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("EDGEFACE_CUDA", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)

    def make(version: str = "13.2", *, body: str = "", said: str = "") -> Path:
        code, arch = (names.split() for names in LISTS[version])
        path = tmp_path / "cuda/bin/nvcc"
        path.parent.mkdir(parents=True)
        said = said or f"Cuda compilation tools, release {version}, V{version}.88"
        path.write_text(
            f"#!{sys.executable}\nimport sys\nwords = sys.argv[1:]\n"
            f"if '--version' in words: print({said!r})\n"
            f"elif '--list-gpu-code' in words: print({chr(10).join(code)!r})\n"
            f"elif '--list-gpu-arch' in words: print({chr(10).join(arch)!r})\n"
            "else:\n"
            + (body or "    open(words[words.index('-o') + 1], 'w').write(' '.join(words))\n")
        )
        path.chmod(0o755)
        monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
        return path

    return make


@pytest.mark.parametrize(
    ("version", "targets"),
    [
        ("12.6", ["sm_87", "sm_90", "PTX compute_75"]),
        ("13.2", ["sm_87", "sm_90", "sm_110", "sm_120", "PTX compute_75"]),
        ("14.0", ["sm_87", "sm_110", "sm_120", "PTX compute_87"]),
    ],
)
def test_it_takes_what_nvcc_lists(
    nvcc: Any, build: Build, facts: Facts, tmp_path: Path, version: str, targets: list[str]
) -> None:
    nvcc(version)
    line, record = build()
    assert record["targets"] == targets
    assert record["compiler"] == f"nvcc {version}"
    assert line == f"CUDA kernels: built by nvcc {version} for {', '.join(targets)}"
    options = (tmp_path / "out/_cuda.fatbin").read_text()
    assert "--fmad=false" in options
    assert options.count("-gencode") == len(targets)
    assert facts() == cuda_kernels.KernelFacts(True, f"nvcc {version}: {', '.join(targets)}")


def test_a_version_worded_in_another_way(nvcc: Any, build: Build) -> None:
    nvcc(said="NVIDIA compiler, next generation")
    assert build()[1]["compiler"] == "nvcc"


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("    sys.exit('no host compiler: gcc 99 is not supported')\n", "gcc 99 is not supported"),
        ("    pass\n", "left nothing to read"),
        ("    import os; os.kill(os.getpid(), 9)\n", "exit code -9"),
    ],
)
def test_an_nvcc_that_fails_is_written_down(
    nvcc: Any, build: Build, facts: Facts, tmp_path: Path, body: str, why: str
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/_cuda.fatbin").write_bytes(b"of older sources")
    nvcc(body=body)
    line, record = build()
    assert line.startswith("CUDA kernels: NOT BUILT, frames will be prepared on the CPU: ")
    assert why in line
    assert why in record["absent"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["_cuda.json"]
    assert not facts().built
    assert why in facts().says


def test_left_out_when_asked(nvcc: Any, build: Build, facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc()
    monkeypatch.setenv("EDGEFACE_CUDA", "0")
    build()
    assert facts().says == "left out when edgeface was installed, by EDGEFACE_CUDA=0"


def test_no_nvcc(build: Build, facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setenv("PATH", "/nonexistent")
    build()
    assert "nvcc was not found when edgeface was installed" in facts().says


def test_no_note_and_a_damaged_one(facts: Facts, tmp_path: Path) -> None:
    assert "the build left no note" in facts().says
    (tmp_path / "out").mkdir()
    for text in ("", "[]", '{"absent": ""}', "\x00"):
        (tmp_path / "out/_cuda.json").write_text(text)
        assert not facts().built
        assert "the build left no note" in facts().says
