"""What a TensorRT engine decides by measuring while it is loaded: the kind of its memory, and who prepares frames."""

from __future__ import annotations

import functools
import logging
import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np

from edgeface.errors import ConfigurationError, EngineError, InferenceError, MissingDependencyError
from edgeface.runtime.cuda import BUFFERS, explain
from edgeface.runtime.cuda_graphs import import_bindings
from edgeface.runtime.cuda_kernels import Kernels
from edgeface.runtime.frame import Align, HeldFrame, Letterbox
from edgeface.runtime.preparer import Preparer
from edgeface.runtime.tensorrt_slot import RUNS_BEFORE_RECORDING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgeface.manifest import Manifest
    from edgeface.runtime.cuda import Gpu
    from edgeface.runtime.frame import Size, Work
    from edgeface.runtime.tensorrt_slot import Signature, Slot

logger = logging.getLogger(__name__)

TRIALS = 20  # runs of each side: about 0.1 s of a load
WARM_UP = 3
TRIAL_FACES = 4  # in the frame on which an embedder's preparation is measured


def medians_ms(*sides: Callable[[], object]) -> list[float]:
    """Median milliseconds of each side, run in turn so that a change of clocks meets all."""
    times: list[list[float]] = [[] for _ in sides]
    for trial in range(WARM_UP + TRIALS):
        for side, run in enumerate(sides):
            start = time.perf_counter()
            run()
            if trial >= WARM_UP:
                times[side].append((time.perf_counter() - start) * 1e3)
    return [statistics.median(each) for each in times]


def choose_memory(
    asked: str, gpu: Gpu, make_slot: Callable[[str], Slot], largest: tuple[int, ...]
) -> tuple[str, str]:
    """Kind of memory, and why. Measured on the largest batch, in turn: a board's GPU has just begun to clock up.

    Both kinds are held for that. Where there is room for one only, that one it is, unmeasured.

    Raises:
        EngineError: there is room for none; CUDA's own errors pass through.
    """
    if asked != "auto":
        return asked, "asked for"
    if not gpu.facts.integrated:
        return "copied", "the GPU has memory of its own"
    tensor = np.zeros(largest, np.float32)
    kinds, lacking = sorted(BUFFERS), ""
    with ExitStack() as opened:
        slots: dict[str, Slot] = {}
        for kind in kinds:
            try:
                slots[kind] = make_slot(kind)
            except (EngineError, gpu.driver.Error) as error:
                refused = isinstance(error, InferenceError)  # TensorRT refuses a call: memory is not what lacks
                if refused or not gpu.still_works() or (kind == kinds[-1] and not slots):
                    raise
                said = explain(error) if isinstance(error, gpu.driver.Error) else str(error)
                lacking = f"there was no room to measure {kind} memory: {said}"
                continue
            opened.callback(slots[kind].close)
        if lacking:
            return next(iter(slots)), lacking
        times = medians_ms(*(functools.partial(slot.run, tensor) for slot in slots.values()))
    best = min(zip(times, slots, strict=True))[1]
    said = ", ".join(f"{kind} {ms:.3f} ms" for kind, ms in zip(slots, times, strict=True))
    return best, f"measured at load: {said}"


def choose_graphs(
    asked: str, slots: Sequence[Slot], manifest: Manifest, largest: tuple[int, ...]
) -> tuple[bool, str]:
    """Whether runs are recorded into CUDA graphs, and why. The largest batch of every slot is recorded here.

    Raises:
        MissingDependencyError: ``on`` was asked for, and cuda-bindings is not installed.
        EngineError: ``on`` was asked for, and a run cannot be recorded.
    """
    if asked == "off":
        return False, "not asked for"
    try:
        bindings = import_bindings()
    except MissingDependencyError as error:
        if asked == "on":
            raise
        return False, str(error)
    tensor = np.zeros(largest, np.float32)
    for slot in slots:
        slot.record(bindings)
        for _ in range(RUNS_BEFORE_RECORDING + 1):
            slot.run(tensor)
    if all(slot.recorded for slot in slots):
        return True, "recorded at load"
    for slot in slots:
        slot.record(None)
    reason = "a run of this network cannot be recorded; the log has the reason"
    if asked == "on":
        raise EngineError(f"{manifest.name}: graphs='on', but {reason}")
    return False, reason


def choose_preparation(
    asked: str, gpu: Gpu, slots: Sequence[Slot], signature: Signature, manifest: Manifest, frame_size: Size
) -> tuple[bool, str]:
    """Whether the GPU prepares frames, and why. Where it does, the slots are equipped for it.

    Measured from a frame in the processor's memory to the network's results in it, with both ways on the real engine.
    An embedder is measured on a frame that its detector has sent to the GPU already.

    Raises:
        ConfigurationError: ``gpu`` was asked for a liveness model, for which there is no kernel.
        MissingDependencyError: ``gpu`` was asked for, and there are no CUDA kernels.
        EngineError: ``gpu`` was asked for, and the driver refuses them.
    """
    if asked == "cpu":
        return False, "asked for"
    if manifest.kind == "liveness":
        if asked == "gpu":
            raise ConfigurationError(f"{manifest.name}: a liveness model's crops are cut on the CPU; omit `prepare`")
        return False, "a liveness model's crops are cut there"
    chosen = False
    try:
        kernels = gpu.shared(Kernels)
        for slot in slots:
            slot.equip(Preparer(gpu, kernels, manifest, largest=signature.largest, memory=slot.memory))
        if asked == "gpu":
            chosen, reason = True, "asked for"
        else:
            chosen, reason = _compare(slots[0], signature, manifest, frame_size)
    except (MissingDependencyError, EngineError) as error:
        if asked == "gpu":
            raise
        reason = str(error)
    except gpu.driver.Error as error:
        if asked == "gpu" or not gpu.still_works():
            raise
        reason = f"the GPU failed at it: {explain(error)}"
        logger.warning("%s: frames are prepared on the CPU: %s", manifest.name, reason)
    finally:
        if not chosen:
            for slot in slots:
                slot.equip(None)
    return chosen, reason


def _compare(slot: Slot, signature: Signature, manifest: Manifest, frame_size: Size) -> tuple[bool, str]:
    frame = HeldFrame(np.full((*frame_size, 3), 128, np.uint8))
    work = _trial_work(frame, signature, manifest)
    if not signature.fits(work.shape):
        return False, f"the engine takes no input of {work.shape}, which a frame of {frame_size} would make"
    tensor = np.empty(work.shape, np.float32)

    def on_cpu() -> None:
        work.fill(tensor, manifest.preprocessing)
        slot.run(tensor)

    def on_gpu() -> None:
        slot.run_frame(work)
        if isinstance(work, Letterbox):
            frame.release()  # each frame crosses once, with its detection

    try:
        cpu_ms, gpu_ms = medians_ms(on_cpu, on_gpu)
    except BaseException:
        slot.settle()  # before the frame's memory is lent again
        raise
    finally:
        frame.release()
    said = f"measured at load on {frame_size[0]} x {frame_size[1]} px: cpu {cpu_ms:.3f} ms, gpu {gpu_ms:.3f} ms"
    if isinstance(work, Align):
        said += ", where the detector has sent the frame to the GPU"
    return gpu_ms < cpu_ms, said


def _trial_work(frame: HeldFrame, signature: Signature, manifest: Manifest) -> Work:
    room = (signature.largest[2], signature.largest[3])
    if manifest.kind == "detector":
        return Letterbox.fit(frame, room=room, fixed=manifest.input_size is not None)
    faces = max(signature.smallest[0], min(TRIAL_FACES, signature.largest[0]))
    template = np.array(manifest.template, np.float32)
    # Side by side, each as large as its crop: what a person at arm's length from a kiosk gives.
    shift = np.arange(faces, dtype=np.float32)[:, None, None] * np.array([room[1] / 2, 0], np.float32)
    return Align(frame, template + shift, template, room)
