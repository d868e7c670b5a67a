"""Compiles ONNX to a plan with TensorRT 10.3, 10.16 or 11.4 on a Jetson, or TensorRT-RTX for desktop cards.

One adapter for all of them, on what they share: a strongly typed network, so that precision lives in the ONNX file
(Q/DQ for INT8, casts for FP16) and neither flags nor calibrators are used, which TensorRT 11 no longer has.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import re
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeface.errors import BuildError, MissingDependencyError
from edgeface.home import home, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgeface.engines.quantize import Stage
    from edgeface.manifest import Manifest

MODULES = {"tensorrt": ("tensorrt",), "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
INSTALL = {
    "tensorrt": "it is a system package of JetPack: make the environment with `python3 -m venv --system-site-packages`",
    "tensorrt-rtx": "install tensorrt_rtx_cu13_libs and tensorrt_rtx_cu13_bindings",
}
#: Desktop generations that TensorRT-RTX compiles for on a machine without a driver: Ampere, Ada, Blackwell.
RTX_TARGETS = ("SM80", "SM86", "SM89", "SM120")
#: Profiles: (smallest, usual, largest) batch of an embedder, and sides of a detector's input in px.
BATCHES = (1, 4, 16)
SIDES = ((64, 64), (384, 640), (640, 640))
#: Workspace: no more than this, and no more than half of what is free. CPU and GPU share memory on a Jetson.
MOST_WORKSPACE = 1 << 30


@dataclass(frozen=True)
class Compiled:
    """A plan and how it was made.

    Attributes:
        plan: the engine's bytes, as `trtexec` reads them.
        facts: versions, device, profiles. layers: the inspector's lines; empty where no driver can load the plan.
    """

    plan: bytes
    facts: dict[str, Any]
    layers: list[dict[str, Any]]


def compile_plan(onnx: bytes, manifest: Manifest, *, target: str, stage: Stage) -> Compiled:
    """Compile a strongly typed network.

    Raises:
        MissingDependencyError: TensorRT is not installed.
        BuildError: the parser or the compiler refuses the network; the message has each node and reason.
        KeyboardInterrupt: Ctrl-C; nothing is left behind.
    """
    trt = import_tensorrt(target)
    messages: list[str] = []
    logger = _logger(trt, messages)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        raise BuildError(f"{manifest.name}: TensorRT {trt.__version__} refuses the network: {parser_errors(parser)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes())
    config.builder_optimization_level = 3  # TensorRT's own middle; 5 takes many times as long for a few per cent
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = _profile(builder, config, network, manifest)
    driver = driver_version()
    device = _target(trt, config, target, driver)
    cache = home() / "timing" / f"{target}-{trt.__version__}-{device}.cache"
    timed = target == "tensorrt"  # TensorRT-RTX times nothing while it compiles
    if timed:
        _load_cache(config, cache)
    with _cancellable(trt, config, stage) as cancelled:
        plan = builder.build_serialized_network(network, config)
    if cancelled.is_set():
        raise KeyboardInterrupt
    if plan is None:
        raise BuildError(f"{manifest.name}: TensorRT {trt.__version__} could not compile: {' / '.join(messages[-3:])}")
    if timed:
        _save_cache(config, cache)
    content = bytes(plan)
    facts = {
        "tensorrt": trt.__version__,
        "device": device,
        "driver": driver,
        "jetpack": jetpack(),
        "profile": profile,
        "warnings": list(dict.fromkeys(messages))[:20],
    }
    return Compiled(content, facts, _inspect(trt, logger, content) if driver else [])


def import_tensorrt(target: str) -> Any:
    """The module of a target. Raises MissingDependencyError."""
    reason = ""
    for name in MODULES[target]:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            reason = str(error)
    raise MissingDependencyError(f"--target {target} needs {MODULES[target][0]} ({reason}); {INSTALL[target]}")


def parser_errors(parser: Any) -> str:
    """Every error of the ONNX parser: node, operator and reason."""
    lines = []
    for number in range(parser.num_errors):
        error = parser.get_error(number)
        named = [getattr(error, name, lambda: "")() for name in ("node_name", "node_operator")]
        where = " ".join(part for part in named if part) or f"node {error.node()}"
        lines.append(f"{where}: {error.desc()}")
    return "; ".join(lines) or "no reason given"


def workspace_bytes() -> int:
    """Half of the free memory, a gigabyte at most."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return MOST_WORKSPACE
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    free = int(found.group(1)) * 1024 if found else 2 * MOST_WORKSPACE
    return min(free // 2, MOST_WORKSPACE)


def driver_version() -> int:
    """CUDA version of the driver; 0 without one. TensorRT must not load a plan then: it may crash."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        version = ctypes.c_int()
        ready = cuda.cuInit(0) == 0 and cuda.cuDriverGetVersion(ctypes.byref(version)) == 0
    except (OSError, AttributeError):
        return 0
    return version.value if ready else 0


def jetpack() -> str | None:
    """The Jetson's L4T release, which names its JetPack; None on other machines."""
    try:
        return Path("/etc/nv_tegra_release").read_text().strip()[:120]
    except OSError:
        return None


def _logger(trt: Any, messages: list[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc] # the module is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.WARNING):
                messages.append(message)

    return Logger()


def _profile(builder: Any, config: Any, network: Any, manifest: Manifest) -> dict[str, Any] | None:
    """Cover the free axes of the input with one optimisation profile; None where nothing is free."""
    tensor = network.get_input(0)
    if -1 not in tuple(tensor.shape):
        return None
    shapes = []
    for at in range(3):
        batch = 1 if manifest.kind == "detector" else min(BATCHES[at], manifest.max_batch or BATCHES[at])
        shapes.append((batch, 3, *(manifest.input_size or SIDES[at])))
    profile = builder.create_optimization_profile()
    profile.set_shape(tensor.name, *shapes)
    if config.add_optimization_profile(profile) < 0:
        raise BuildError(f"{manifest.name}: TensorRT refuses the profile {shapes} for an input of shape {tensor.shape}")
    return {"input": tensor.name, "min": shapes[0], "opt": shapes[1], "max": shapes[2]}


def _target(trt: Any, config: Any, target: str, driver: int) -> str:
    """Choose the devices to compile for: this machine's, or without a driver every desktop generation."""
    if target == "tensorrt-rtx" and not driver:
        config.num_compute_capabilities = len(RTX_TARGETS)
        for number, name in enumerate(RTX_TARGETS):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), number)
        return "+".join(RTX_TARGETS)
    return _device_name()


def _device_name() -> str:
    try:
        return Path("/proc/device-tree/model").read_text().strip("\0\n ").replace(" ", "-").replace("/", "-")
    except OSError:
        return "this-machine"


def _load_cache(config: Any, path: Path) -> None:
    content = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(content) or config.create_timing_cache(b"")  # a damaged one is started anew
    if cache is not None:
        config.set_timing_cache(cache, False)


def _save_cache(config: Any, path: Path) -> None:
    cache = config.get_timing_cache()
    content = bytes(cache.serialize()) if cache is not None else b""
    if content:
        write_atomically(path, content)


@contextmanager
def _cancellable(trt: Any, config: Any, stage: Stage) -> Iterator[threading.Event]:
    """Report TensorRT's phases, and turn Ctrl-C into its own way to stop."""
    cancelled = threading.Event()
    ticks: dict[str, Callable[[int], None]] = {}

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc] # the module is known at run time only
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if not parent:  # one bar for each outermost phase
                ticks[phase] = stage(f"compiling: {phase}", steps)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in ticks:
                ticks[phase](1)
            return not cancelled.is_set()

        def phase_finish(self, phase: str) -> None:
            ticks.pop(phase, None)

    monitor = Monitor()
    config.progress_monitor = monitor
    main = threading.current_thread() is threading.main_thread()
    old = signal.signal(signal.SIGINT, lambda *_: cancelled.set()) if main else None
    try:
        yield cancelled
    finally:
        if main:
            signal.signal(signal.SIGINT, old)


def _inspect(trt: Any, logger: Any, plan: bytes) -> list[dict[str, Any]]:
    """Each layer of the plan as the engine inspector tells it: name, type and the formats of its outputs."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        return []
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    rows = []
    for layer in json.loads(text).get("Layers", []):
        if isinstance(layer, dict):
            formats = [str(item.get("Format/Datatype", "")) for item in layer.get("Outputs", [])]
            rows.append({"layer": layer.get("Name"), "type": layer.get("LayerType"), "outputs": formats})
    return rows
