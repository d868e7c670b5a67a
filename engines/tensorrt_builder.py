"""Compiles ONNX to a plan with TensorRT 10.3, 10.16 or 11.4 on a Jetson, or TensorRT-RTX for desktop cards.

One adapter for all of them, on what they share: a strongly typed network, so that precision lives in the ONNX file
(Q/DQ for INT8, casts for FP16) and neither flags nor calibrators are used, which TensorRT 11 no longer has.
"""

from __future__ import annotations

import logging
import re
import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeface.engines.inspector import inspect_plan, off_plan
from edgeface.errors import BuildError
from edgeface.home import home, remove_stale, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edgeface.engines.machine import Machine
    from edgeface.engines.quantize import Stage
    from edgeface.manifest import Manifest

#: Profiles: (smallest, usual, largest) batch of an embedder, and sides of a detector's input in px: it takes multiples
#: of 32, and never more than 640 unless it is asked to.
BATCHES = (1, 4, 16)
SIDES = ((32, 32), (384, 640), (640, 640))
#: Workspace: no more than this, and no more than half of what is free. CPU and GPU share memory on a Jetson.
MOST_WORKSPACE = 1 << 30
#: From which version on, and up to which, TensorRT has no DLA (release notes of 10.8 and of 11.4.1).
NO_DLA = ((10, 8), (11, 4))

logger = logging.getLogger(__name__)

_logs: dict[str, tuple[Any, list[str]]] = {}  # for the life of the process: TensorRT keeps a pointer to its logger


@dataclass(frozen=True)
class Compiled:
    """A plan and how it was made.

    Attributes:
        plan: the engine's bytes, as `trtexec` reads them.
        facts: versions, device, profile, for the manifest.
        layers: the inspector's. off_plan: layers that compute in another precision than the network asks for, in words.
            Both are empty where no plan can be loaded: nobody looked.
    """

    plan: bytes
    facts: dict[str, Any]
    layers: list[dict[str, Any]] = field(default_factory=list)
    off_plan: list[str] = field(default_factory=list)


def compile_plan(
    onnx: bytes, manifest: Manifest, *, machine: Machine, stage: Stage, dla: int | None = None
) -> Compiled:
    """Compile a strongly typed network.

    Args:
        dla: run what can run there on this DLA core (experimental): one shape of input, the rest on the GPU.

    Raises:
        BuildError: the parser or the compiler refuses the network; the message has each node and reason. Or there is no
            such DLA core.
        KeyboardInterrupt: Ctrl-C; nothing is left behind.
    """
    trt = machine.trt
    native, messages = _logger(trt, machine.target)
    builder = make_builder(machine, dla=dla)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, native)
    if not parser.parse(onnx):
        raise BuildError(f"{manifest.name}: TensorRT {machine.version} refuses the network: {parser_errors(parser)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes())
    config.builder_optimization_level = 3  # TensorRT's own middle; 5 takes many times as long for a few per cent
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    profile = _profile(builder, config, network, manifest, fixed=dla is not None)
    if dla is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = dla
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)  # what DLA cannot do runs on the GPU
    if machine.targets:
        config.num_compute_capabilities = len(machine.targets)
        for number, name in enumerate(machine.targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), number)
    cache = home() / "timing" / f"{machine.slug()}.cache"
    timed = machine.target == "tensorrt"  # TensorRT-RTX times nothing while it compiles
    if timed:
        _load_cache(config, cache)
    with _cancellable(trt, config, stage) as cancelled:
        plan = builder.build_serialized_network(network, config)
    if cancelled.is_set():
        raise KeyboardInterrupt
    if plan is None:
        raise BuildError(f"{manifest.name}: TensorRT {machine.version} could not compile: {' / '.join(messages[-3:])}")
    if timed:
        _save_cache(config, cache)
    content = bytes(plan)
    warnings = list(dict.fromkeys(messages))[:20]
    facts = {**machine.facts(), "profile": profile, "warnings": warnings}
    if machine.gpu is None:
        return Compiled(content, facts | _dla_facts(dla, []))
    inspection = inspect_plan(trt, native, content, dla=dla)
    said = off_plan(onnx, inspection)
    facts |= {"off_plan": said, **_dla_facts(dla, inspection.on_dla)}
    return Compiled(content, facts, inspection.rows(), said)


def _dla_facts(core: int | None, layers: list[str]) -> dict[str, Any]:
    return {} if core is None else {"dla_core": core, "dla_layers": layers}


def make_builder(machine: Machine, *, dla: int | None = None) -> Any:
    """TensorRT's builder. Raises BuildError: there is none on this machine, or no such DLA core."""
    native, messages = _logger(machine.trt, machine.target)
    try:
        builder = machine.trt.Builder(native)
    except TypeError as error:  # what the bindings make of a null pointer
        raise BuildError(
            f"TensorRT {machine.version} gives no builder ({error}): {' / '.join(messages[-3:]) or 'no reason given'}; "
            "it needs an NVIDIA GPU with its driver"
        ) from error
    if dla is None:
        return builder
    version = tuple(int(part) for part in re.findall(r"\d+", machine.version)[:2])
    if NO_DLA[0] <= version < NO_DLA[1]:
        raise BuildError(
            f"--dla {dla}: TensorRT {machine.version} has no DLA: 10.7 was the last of the 10s with it, 11.4.1 has it "
            "again on AGX Orin; build without --dla"
        )
    cores = int(builder.num_DLA_cores)
    if not 0 <= dla < cores:
        have = f"this machine has {cores}, numbered from 0" if cores else "TensorRT finds none on this machine"
        raise BuildError(f"--dla {dla}: no such DLA core: {have}; build without --dla, or on an Orin NX, AGX Orin")
    return builder


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


def _logger(trt: Any, target: str) -> tuple[Any, list[str]]:
    """TensorRT's logger of this process, and the list that its warnings and errors go to from now on."""
    if target not in _logs:
        kept: list[str] = []

        class Logger(trt.ILogger):  # type: ignore[misc] # the module is known at run time only
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                if int(severity) <= int(trt.ILogger.Severity.WARNING):
                    kept.append(msg)

        _logs[target] = (Logger(), kept)
    native, messages = _logs[target]
    messages.clear()
    return native, messages


def _profile(builder: Any, config: Any, network: Any, manifest: Manifest, *, fixed: bool) -> dict[str, Any] | None:
    """Cover the free axes of the input with one optimisation profile; None where nothing is free.

    A `fixed` one has one shape, as DLA wants it: NVIDIA's list of its restrictions, "no dynamic dimensions".
    """
    tensor = network.get_input(0)
    if -1 not in tuple(tensor.shape):
        return None
    if fixed and manifest.input_size is None:
        raise BuildError(f"{manifest.name}: DLA wants one size of input; give it in a recipe of your own, input.size")
    shapes = []
    for at in range(3):
        batch = 1 if manifest.kind == "detector" or fixed else min(BATCHES[at], manifest.max_batch or BATCHES[at])
        shapes.append((batch, 3, *(manifest.input_size or SIDES[at])))
    profile = builder.create_optimization_profile()
    profile.set_shape(tensor.name, *shapes)
    if config.add_optimization_profile(profile) < 0:
        raise BuildError(f"{manifest.name}: TensorRT refuses the profile {shapes} for an input of shape {tensor.shape}")
    return {"input": tensor.name, "min": shapes[0], "opt": shapes[1], "max": shapes[2]}


def _load_cache(config: Any, path: Path) -> None:
    try:
        content = path.read_bytes()
    except OSError:  # the first build here, most often
        content = b""
    # Started anew: a damaged one, which cannot be read, and one that was timed in another power mode, with other
    # multiprocessors or clocks, which TensorRT does not take.
    for start in (content, b""):
        cache = config.create_timing_cache(start)
        if cache is not None and config.set_timing_cache(cache, False):
            return


def _save_cache(config: Any, path: Path) -> None:
    cache = config.get_timing_cache()
    content = bytes(cache.serialize()) if cache is not None else b""
    if not content:
        return
    try:
        remove_stale(path.parent, ".*.part")
        write_atomically(path, content)
    except OSError as error:  # the plan is made; only the next build takes longer
        logger.warning("%s: TensorRT's timings were not kept: %s", path, error)


@contextmanager
def _cancellable(trt: Any, config: Any, stage: Stage) -> Iterator[threading.Event]:
    """Report TensorRT's phases, and turn Ctrl-C into its own way to stop."""
    cancelled = threading.Event()
    ticks: dict[str, Callable[[int], None]] = {}

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc] # the module is known at run time only
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:  # one bar for each outermost phase
                ticks[phase_name] = stage(f"compiling: {phase_name}", num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in ticks:
                ticks[phase_name](1)
            return not cancelled.is_set()

        def phase_finish(self, phase_name: str) -> None:
            ticks.pop(phase_name, None)

    monitor = Monitor()
    config.progress_monitor = monitor
    main = threading.current_thread() is threading.main_thread()
    old = signal.signal(signal.SIGINT, lambda *_: cancelled.set()) if main else None
    try:
        yield cancelled
    finally:
        if main:
            signal.signal(signal.SIGINT, old)
