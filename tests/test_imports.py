"""Dependencies point one way (docs/architecture.md); heavy packages are loaded by the modules that own them, on use."""

from __future__ import annotations

import ast
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: Layers from the bottom up: a module imports from its own layer's list of rooms, and from lower layers.
#: Rooms in one layer do not know one another, unless they are the same room.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "overlap", "stopwatch"),
    ("types", "numbers"),
    ("home", "photos", "tables", "pad", "contents", "manifest", "frames", "pose"),
    ("kernels", "runtime", "policy", "quality"),
    ("detect", "align", "embed", "liveness", "gallery"),
    ("enrolment",),
    ("recognizer",),
    ("video",),
    ("engines",),
    ("tools",),
)
RANK = {room: rank for rank, layer in enumerate(LAYERS) for room in layer}

#: Who may import what is heavy; everybody else asks them.
OWNERS = {
    "tensorrt": ("edgeface/runtime/", "engines/"),
    "tensorrt_rtx": ("edgeface/runtime/", "engines/"),
    "pycuda": ("edgeface/runtime/",),
    "cuda": ("edgeface/runtime/cuda_graphs.py",),
    "onnxruntime": ("edgeface/runtime/onnxrt.py", "engines/", "tools/checks_machine.py"),  # the last says what is there
    "onnx": ("engines/",),
    "hnswlib": ("edgeface/gallery/", "tools/bench/"),
    "click": ("tools/",),
    "rich": ("tools/",),
    "cv2": ("edgeface/photos.py", "edgeface/pose.py", "edgeface/video/", "engines/", "tools/"),
    "sqlite3": ("edgeface/gallery/",),
    "pickle": (),
    "torch": (),
}
#: The standard library's and numpy apart, what a module may load when it is imported; the rest waits for its use.
AT_IMPORT = {"edgeface/": set[str](), "engines/": {"onnx", "onnxruntime", "tomllib", "tomli"}, "tools/": {"click"}}


def sources() -> list[Path]:
    found = [path for room in ("edgeface", "engines", "tools") for path in sorted((ROOT / room).rglob("*.py"))]
    assert len(found) > 40
    return found


def room_of(path: Path) -> str:
    """The room of a source file: `detect` for edgeface/detect.py, `gallery` for edgeface/gallery/scan.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    name = parts[0] if parts[0] != "edgeface" else parts[1] if len(parts) > 1 else "edgeface"
    return "kernels" if name.startswith("_kernels") or name == "_native" else name


def imports(path: Path) -> list[tuple[str, int, bool]]:
    """(module, line, whether it happens when the file is imported) of every import but type checkers'."""
    found: list[tuple[str, int, bool]] = []

    def walk(node: ast.AST, at_import: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for other in child.orelse:
                    walk(other, at_import)
                continue
            if isinstance(child, ast.Import):
                found.extend((alias.name, child.lineno, at_import) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}:{child.lineno}: imports are absolute here"
                module = child.module or ""
                # `from edgeface import kernels` may name a module or a public name.
                names = (
                    [f"{module}.{alias.name}" for alias in child.names] if module.startswith("edgeface") else [module]
                )
                found.extend((name, child.lineno, at_import) for name in names)
            walk(child, at_import and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    walk(ast.parse(path.read_text()), True)
    return found


def edgeface_room(module: str) -> str | None:
    """The room that an import of edgeface's is of; None for its public names, which tools and documents use."""
    parts = module.split(".")
    if parts[0] != "edgeface" or len(parts) < 2:
        return None
    name = "kernels" if parts[1].startswith("_kernels") or parts[1] == "_native" else parts[1]
    return name if name in RANK else None


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_dependencies_point_one_way(path: Path) -> None:
    room = room_of(path)
    if path == ROOT / "edgeface/__init__.py":
        return  # the public names of every room, and nothing else: tests/test_surface.py
    assert room in RANK, f"{path}: a new room: give it a place among LAYERS"
    for module, line, _ in imports(path):
        where = f"{path.relative_to(ROOT)}:{line}: imports {module}"
        other = edgeface_room(module)
        if other is None:
            if module.split(".")[0] == "edgeface":
                assert RANK[room] >= RANK["engines"], f"{where}: the SDK's modules import each other, not the package"
            continue
        if other != room:
            same_layer_ok = RANK[room] <= RANK["policy"]  # small modules of data may use each other
            lower = RANK[other] < RANK[room] or (same_layer_ok and RANK[other] == RANK[room])
            assert lower, f"{where}: {other} is not below {room}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_packages_are_imported_by_their_owners_on_use(path: Path) -> None:
    relative = str(path.relative_to(ROOT))
    for module, line, at_import in imports(path):
        package = module.split(".")[0]
        where = f"{relative}:{line}: imports {module}"
        if package in OWNERS:
            assert relative.startswith(OWNERS[package] or ("nobody",)), f"{where}: that is for {OWNERS[package]} to do"
        if at_import and package not in sys.stdlib_module_names | {"numpy", "edgeface"}:
            (room,) = (room for room in AT_IMPORT if relative.startswith(room))
            assert package in AT_IMPORT[room], (
                f"{where} when it is itself imported: move it into the function that uses it"
            )


def test_the_sdk_never_imports_the_engines_or_the_tools() -> None:
    for path in (ROOT / "edgeface").rglob("*.py"):
        for module, line, _ in imports(path):
            assert not module.startswith(("edgeface.engines", "edgeface.tools")), f"{path}:{line}: {module}"


HEAVY = ("cv2", "onnxruntime", "tensorrt", "tensorrt_rtx", "pycuda", "onnx", "click", "rich", "google.protobuf")


def test_importing_edgeface_loads_nothing_heavy() -> None:
    program = f"import sys, edgeface; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_waits_for_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['edgeface', '--help']\n"
        "from edgeface.tools.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n"
        f"    print([name for name in {HEAVY!r} if name in sys.modules and name != 'click'], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_importing_edgeface_costs_little_more_than_numpy() -> None:
    """Under 0.15 s more, as the README says. Pairs of processes in turn, so that a busy machine meets both.

    Time of processors, not of the wall clock: importing is one thread's work, and what other processes of the machine
    do is not edgeface's cost.
    """

    def seconds(program: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", program], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    pairs = [(seconds("import numpy"), seconds("import edgeface")) for _ in range(6)][1:]
    extra = min(statistics.median(b - a for a, b in pairs), min(b for _, b in pairs) - min(a for a, _ in pairs))
    assert extra < 0.15, f"{extra:.3f} s more than numpy, of {pairs}"
