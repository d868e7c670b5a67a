"""Builds the native module, and the CUDA kernels where nvcc is. The rest of the package stands in pyproject.toml."""

import os
import runpy
import shutil
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PACKAGES = {
    "edgeface": "edgeface",
    "edgeface.gallery": "edgeface/gallery",
    "edgeface.runtime": "edgeface/runtime",
    "edgeface.video": "edgeface/video",
    "edgeface.engines": "engines",
    "edgeface.engines.recipes": "engines/recipes",
    "edgeface.tools": "tools",
    "edgeface.tools.bench": "tools/bench",
    "edgeface.tools.demo_photos": "tools/demo_photos",
}

# One portable build: the files named simd_* choose their instruction sets themselves, function by function, and the
# processor is asked at run time. So no -march here. Contracted multiply-adds would give each machine its own rounding.
NATIVE = Extension(
    "edgeface._native",
    sources=["cpp_ext/_native.pyx", *sorted(str(p) for p in Path("cpp_ext").glob("*.cpp") if p.stem != "_native")],
    depends=[str(path) for pattern in ("*.hpp", "*.inl") for path in Path("cpp_ext").glob(pattern)],
    include_dirs=["cpp_ext"],
    language="c++",
    extra_compile_args=[
        "-std=c++17", "-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math",
        "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-psabi",
    ],
)


def hnsw_extensions() -> list[Extension]:
    """The int8 graph for large galleries, where hnswlib's headers are found; the hnswlib package serves otherwise.

    Found in EDGEFACE_HNSWLIB (a folder that holds hnswlib/hnswlib.h, such as hnswlib's unpacked source distribution) or
    where Debian's libhnswlib-dev puts them.
    """
    for folder in (os.environ.get("EDGEFACE_HNSWLIB", ""), "/usr/include", "/usr/local/include"):
        if folder and Path(folder, "hnswlib", "hnswlib.h").is_file():
            return [
                Extension(
                    "edgeface._hnsw",
                    sources=["cpp_ext/hnsw/_hnsw.pyx", "cpp_ext/hnsw/graph.cpp"],
                    depends=[str(path) for path in Path("cpp_ext/hnsw").glob("graph*.[hi]*")],
                    include_dirs=["cpp_ext/hnsw"],
                    language="c++",
                    # -isystem /usr/include would hide the compiler's own headers behind it
                    extra_compile_args=["-std=c++17", "-O3", "-g0", "-fvisibility=hidden"]
                    + ([] if folder == "/usr/include" else ["-isystem", folder]),
                )
            ]
    return []


class BuildNative(build_ext):
    """The extensions, then the CUDA kernels: package data that only a compiler can make."""

    def run(self) -> None:
        super().run()
        built = Path(self.build_lib, "edgeface")
        line = runpy.run_path("cpp_ext/cuda/fatbin.py")["compile_kernels"](built)
        print(f"\n==== {line} ====\n", file=sys.stderr)
        if self.inplace or self.editable_mode:
            for name in ("_cuda.fatbin", "_cuda.json"):
                Path("edgeface", name).unlink(missing_ok=True)
                if (built / name).exists():
                    shutil.copy(built / name, "edgeface")

    def get_outputs(self) -> list[str]:
        made = [str(path) for path in sorted(Path(self.build_lib, "edgeface").glob("_cuda.*"))]
        return [*super().get_outputs(), *made]


setup(
    cmdclass={"build_ext": BuildNative},
    ext_modules=cythonize([NATIVE, *hnsw_extensions()]),
    # Also beside the sources: Python started in this folder finds ./edgeface before the installed package.
    options={"build_ext": {"inplace": True}},
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={
        "edgeface": ["py.typed", "_cuda.fatbin", "_cuda.json"],
        "edgeface.engines.recipes": ["*.toml"],
        "edgeface.tools.demo_photos": ["*.jpg"],
    },
)
