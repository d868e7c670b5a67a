"""Frames prepared by the CUDA kernels, through the real pycuda over a stand-in for the driver that runs them.

Each test runs a script in a process of its own (`conftest.py`).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import host_kernels
import pytest
from fake_driver import CLEAN

from edgeface.runtime.cuda_kernels import kernel_facts

if TYPE_CHECKING:
    from collections.abc import Callable

Script = Any

START = """
    import dataclasses, hashlib
    from edgeface.manifest import manifest_path, read_manifest
    from edgeface.runtime.frame import Align, HeldFrame, Letterbox
    from fake_tensorrt import engine_file
    host_kernels.build(pathlib.Path(path).parent)
    def digest(tensor):
        flat = tensor.reshape(len(tensor), -1)
        return (flat * np.arange(1, flat.shape[1] + 1) % 97).reshape(len(flat), 8, -1).sum(2).astype(np.float32)
    trt.networks["first"] = lambda tensor: {"out": digest(tensor)}
    manifest = read_manifest(pathlib.Path(path))
    template = np.array(manifest.template, np.float32) * np.float32(16 / 112)
    def write(name, low, high, **changes):
        content = engine_file(input_name="data", low=low, high=high, outputs=["out"], network="first")
        file = pathlib.Path(path).with_name(name)
        file.write_bytes(content)
        made = dataclasses.replace(manifest, file=name, sha256=hashlib.sha256(content).hexdigest(), size=len(content),
                                   **changes)
        manifest_path(file).write_text(made.to_json())
        return file
    finder = write("finder.fp32.plan", (1, 3, 32, 32), (1, 3, 96, 128), kind="detector", head="yunet", dimension=0,
                   template=(), input_size=None, outputs={"cls_8": "out"})
    def held(height=140, width=200, pixel_format="bgr", seed=0):
        shape = (height, width, 3) if pixel_format == "bgr" else (height * 3 // 2, width)
        return HeldFrame(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), pixel_format=pixel_format)
    def letterbox(frame):
        return Letterbox.fit(frame, room=(96, 128), fixed=False)
    def align(frame, count=3):
        shift = np.arange(count, dtype=np.float32)[:, None, None] * 60 - 3
        return Align(frame, template * 4 + shift, template, (16, 16))
    def expected(work):
        tensor = np.empty(work.shape, np.float32)
        work.fill(tensor, manifest.preprocessing)
        return digest(tensor)
    def right(engine, work):
        (got,) = engine.run_frame(work).values()
        np.testing.assert_array_equal(got, expected(work))
"""


@pytest.fixture
def kernels(script: Script) -> Callable[..., dict[str, Any]]:
    """`kernels(lines)`: runs them and gives what `report` printed."""
    start = textwrap.dedent(START)
    return lambda lines: script(start + textwrap.dedent(lines))


Kernels = Any


@pytest.mark.parametrize("memory", ["mapped", "copied"])
def test_one_upload_serves_both_networks(kernels: Kernels, memory: str) -> None:
    """The tensors are those of the CPU's kernels in every bit; the second network finds the frame where it is."""
    seen = kernels(
        f"""
        with load_engine(finder, prepare="gpu", memory={memory!r}) as find:
            with load_engine(path, memory={memory!r}, prepare="gpu") as embed:
                for number, pixel_format in enumerate(["bgr", "nv12"] * 3):
                    with held(140 - 20 * number, 200, pixel_format, seed=number) as frame:
                        right(find, letterbox(frame))
                        copy = frame.copy
                        right(embed, align(frame))
                        right(embed, align(frame, 1))
                        assert frame.copy is copy
                    assert frame.copy is None
                assert embed.run_frame(align(held(120, 200, "bgr"), 5)) is None  # more than the engine takes
                assert find.run_frame(letterbox(HeldFrame(np.zeros((60, 80), np.uint8), pixel_format="gray"))) is None
                correct_after = embed.run(tensor(2))["embedding"]
                np.testing.assert_array_equal(correct_after, digest(tensor(2)))
        report()
        """
    )
    assert seen == CLEAN


@pytest.mark.parametrize("memory", ["mapped", "copied"])
def test_10000_frames_leak_and_allocate_nothing(kernels: Kernels, memory: str) -> None:
    seen = kernels(
        f"""
        with load_engine(finder, prepare="gpu", memory={memory!r}) as find:
            with load_engine(path, memory={memory!r}, prepare="gpu") as embed:
                frames = [held(140, 200), held(90, 120, "nv12"), held(64, 64)]
                def once(number):
                    with frames[number % 3] as frame:
                        find.run_frame(letterbox(frame))
                        embed.run_frame(align(frame, 1 + number % 3))
                for number in range(6):
                    once(number)
                before, alive = device.native.fake_allocations(), device.state()["alive"]
                for number in range(10_000):
                    once(number)
                assert device.state()["alive"] == alive
                grown = device.native.fake_allocations() - before
                with held(200, 300) as larger:  # now, and only now, the frame's memory and the tables grow
                    right(find, letterbox(larger))
                assert device.native.fake_allocations() > before
        report(grown=grown)
        """
    )
    assert seen.pop("grown") == 0
    assert seen == CLEAN


def test_both_ways_are_measured_and_said(kernels: Kernels) -> None:
    seen = kernels(
        """
        said = []
        for file in (finder, path):
            with load_engine(file, frame_size=(140, 200)) as engine:
                said.append([engine.prepares_frames, engine.prepare_reason])
                with held() as frame:
                    if engine.prepares_frames and file == finder:
                        right(engine, letterbox(frame))
                    elif file == path:
                        assert engine.run_frame(align(frame)) is None  # not worth sending the frame for
        report(said=said)
        """
    )
    for chosen, reason in seen.pop("said"):
        figures = re.match(r"measured at load on 140 x 200 px: cpu ([\d.]+) ms, gpu ([\d.]+) ms", reason)
        assert figures is not None
        cpu_ms, gpu_ms = map(float, figures.groups())
        assert chosen == (gpu_ms < cpu_ms) or cpu_ms == gpu_ms
    assert seen == CLEAN


def test_many_threads_have_their_own_frames(kernels: Kernels) -> None:
    seen = kernels(
        """
        from concurrent.futures import ThreadPoolExecutor
        find, embed = (load_engine(file, prepare="gpu", workers=2) for file in (finder, path))
        def once(seed):
            with held(60 + seed % 80, 100 + seed % 70, seed=seed) as frame:
                right(find, letterbox(frame))
                right(embed, align(frame, 1 + seed % 3))
        with find, embed, ThreadPoolExecutor(5) as pool:
            list(pool.map(once, range(200)))
        report()
        """
    )
    assert seen == CLEAN


def test_a_frame_that_outlives_its_engine(kernels: Kernels) -> None:
    seen = kernels(
        """
        frame = held()
        with load_engine(finder, prepare="gpu") as find:
            right(find, letterbox(frame))
        between = device.state()
        with load_engine(finder, prepare="gpu") as find:  # in a new context: the copy counts no more
            right(find, letterbox(frame))
            frame.release()
            right(find, letterbox(frame))
            del frame
            right(find, letterbox(held()))
        report(between=between)
        """
    )
    assert seen.pop("between") == CLEAN
    assert seen == CLEAN


@pytest.mark.parametrize(
    ("call", "code", "why"),
    [
        ("cuModuleLoadDataEx", 209, "no kernel image is available for execution on the device"),
        ("cuModuleGetFunction", 999, "made-up failure"),
    ],
)
def test_kernels_that_the_gpu_refuses(kernels: Kernels, call: str, code: int, why: str) -> None:
    seen = kernels(
        f"""
        device.fail({call!r}, code={code})
        try:
            load_engine(path, prepare="gpu")
            said = "loaded"
        except EngineError as error:
            said = str(error)
        between = device.state()
        device.fail({call!r}, code={code})
        with load_engine(path) as engine:
            fallen = [engine.prepares_frames, engine.prepare_reason]
            with held() as frame:
                assert engine.run_frame(align(frame)) is None
        report(said=said, between=between, fallen=fallen)
        """
    )
    said = f"refuses the CUDA kernels (g++: host): CUDA call {call} failed: {why}"
    assert said in seen.pop("said")
    assert seen.pop("between") == CLEAN
    chosen, reason = seen.pop("fallen")
    assert not chosen
    assert said in reason
    assert seen == CLEAN


@pytest.mark.parametrize("call", ["cuLaunchKernel", "cuMemAlloc", "cuMemHostAlloc", "cuMemcpyHtoDAsync"])
def test_a_failure_while_measuring_leaves_the_cpu(kernels: Kernels, call: str) -> None:
    """Whichever of the calls fails between loading the kernels and the end of the load."""
    seen = kernels(
        f"""
        import logging
        logging.disable()
        real = cuda_kernels.Kernels.__init__
        def armed(self, gpu):
            real(self, gpu)
            device.fail({call!r}, code=999)
        from edgeface.runtime import tensorrt_trials
        tensorrt_trials.Kernels = type("Kernels", (cuda_kernels.Kernels,), {{"__init__": armed}})
        with load_engine(path, memory="copied", frame_size=(140, 200)) as engine:
            fallen = [engine.prepares_frames, engine.prepare_reason]
            given = tensor(3)
            np.testing.assert_array_equal(engine.run(given)["embedding"], digest(given))
        report(fallen=fallen)
        """
    )
    assert seen.pop("fallen") == [False, f"the GPU failed at it: CUDA call {call} failed: made-up failure"]
    assert seen == CLEAN


@pytest.mark.parametrize("memory", ["mapped", "copied"])
@pytest.mark.parametrize("call", ["cuLaunchKernel", "cuMemHostAlloc", "cuMemcpyHtoDAsync", "cuStreamSynchronize"])
def test_a_failure_while_running_leaks_nothing(kernels: Kernels, call: str, memory: str) -> None:
    seen = kernels(
        f"""
        with load_engine(finder, prepare="gpu", memory={memory!r}) as find:
            device.fail({call!r}, code=999)
            with held() as frame:
                try:
                    find.run_frame(letterbox(frame))
                    said = "ran"
                except InferenceError as error:
                    said = str(error)
                assert frame.copy is None
                right(find, letterbox(frame))
        report(said=said)
        """
    )
    assert f"CUDA call {call} failed: made-up failure; this run is lost, the engine goes on" in seen.pop("said")
    assert seen == CLEAN


@pytest.mark.parametrize("memory", ["mapped", "copied"])
def test_a_sticky_error_is_closed_and_opened_again(kernels: Kernels, memory: str) -> None:
    seen = kernels(
        f"""
        find, embed = (load_engine(file, prepare="gpu", memory={memory!r}) for file in (finder, path))
        frame = held()
        right(find, letterbox(frame))
        device.fail("cuLaunchKernel", code=700, sticky=True)
        try:
            embed.run_frame(align(frame))
            said = "ran"
        except InferenceError as error:
            said = str(error)
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # pycuda complains that it cannot free in a broken context
        find.close()
        embed.close()
        between = device.state()
        with load_engine(finder, prepare="gpu", memory={memory!r}) as again:
            right(again, letterbox(frame))
        report(said=said, between=between)
        """
    )
    assert "an illegal memory access was encountered; the GPU's context is lost" in seen.pop("said")
    assert seen.pop("between") == CLEAN
    assert seen == CLEAN


def test_the_tests_for_a_real_gpu_run_on_the_stand_in(driver: Path) -> None:
    """So that what runs first on a GPU is not the tests' own mistakes."""
    facts = kernel_facts()
    if not facts.built:
        pytest.skip(f"there are no CUDA kernels: {facts.says}")
    chosen = "any_thread or facts or mapped_memory or (cpus_tensors and (481 or 8191))"
    command = [sys.executable, "-W", "ignore", "-m", "pytest", "-m", "gpu", "-k", chosen, "tests/gpu"]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "LD_PRELOAD": str(driver), "EDGEFACE_HOST_KERNELS": str(host_kernels.compile_kernels())},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count(".") >= 11, done.stdout
