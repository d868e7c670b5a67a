"""The real pycuda over a stand-in for the driver: buffers' lifetime, mapped memory, streams, threads, failures.

Each test runs a script in a process of its own, into which the stand-in is preloaded; standard error must stay empty,
for that is where pycuda reports what it leaks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fake_driver import compile_driver, why_not
from fake_tensorrt import engine_file

from edgeface.manifest import ARCFACE_112, Manifest, Preprocessing, manifest_path

if TYPE_CHECKING:
    from collections.abc import Callable

FAKES = Path(__file__).parents[1] / "fakes"
CLEAN = {"alive": [0, 0, 0, 0], "retained": 0, "misuse": "", "depth": 0, "leaks": []}

START = """
    import json, os, sys, threading, warnings
    sys.path.insert(0, {fakes!r})
    warnings.simplefilter("ignore")  # pycuda compares versions of header and driver
    from fake_driver import Device
    from fake_tensorrt import FakeTensorRt
    import numpy as np
    device = Device()
    trt = FakeTensorRt(device)
    trt.networks["first"] = lambda tensor: {{"out": tensor.reshape(len(tensor), -1)[:, :8].copy()}}
    sys.modules["tensorrt"] = trt.module
    from edgeface.errors import EdgefaceError, EngineError, InferenceError
    from edgeface.runtime import load_engine
    path = {engine!r}
    def tensor(count, seed=0):
        return np.random.default_rng(seed).random((count, 3, 16, 16), np.float32)
    def correct(engine, count, seed):
        given = tensor(count, seed)
        np.testing.assert_array_equal(engine.run(given)["embedding"], given.reshape(count, -1)[:, :8])
    def report(**more):
        print(json.dumps(dict(device.state(), **more)))
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    return compile_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def script(driver: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`script(lines)`: runs them and gives what `report` printed."""
    path = tmp_path / "first.fp32.plan"
    content = engine_file(input_name="data", low=(1, 3, 16, 16), high=(4, 3, 16, 16), outputs=["out"], network="first")
    import hashlib

    manifest = Manifest(
        name="first", model_id="first@0/fp32", file=path.name, sha256=hashlib.sha256(content).hexdigest(),
        size=len(content), kind="embedder", precision="fp32", runtime="tensorrt", licence="none", source="a test",
        input_name="data", input_size=(16, 16), max_batch=4, preprocessing=Preprocessing("rgb"),
        outputs={"embedding": "out"}, dimension=8, template=ARCFACE_112,
        build={"tensorrt": "10.3.0", "compute_capability": "8.7", "device": "Orin"},
    )  # fmt: skip
    path.write_bytes(content)
    manifest_path(path).write_text(manifest.to_json())

    def run(lines: str) -> dict[str, Any]:
        code = textwrap.dedent(START).format(fakes=str(FAKES), engine=str(path)) + textwrap.dedent(lines)
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "LD_PRELOAD": str(driver)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return last

    return run


@pytest.mark.parametrize("memory", ["mapped", "copied"])
def test_10000_frames_leak_nothing(script: Callable[..., dict[str, Any]], memory: str) -> None:
    seen = script(
        f"""
        with load_engine(path, memory={memory!r}, workers=2) as engine:
            given = [tensor(count) for count in (1, 4, 2)]
            for frame in given:
                engine.run(frame)
            before = device.native.fake_allocations()
            for number in range(10_000):
                engine.run(given[number % 3])
            for seed in range(20):
                correct(engine, 1 + seed % 4, seed)
            grown = device.native.fake_allocations() - before
            alive = device.state()["alive"]
        report(grown=grown, during=alive)
        """
    )
    assert seen.pop("grown") == 0
    assert seen.pop("during") == ([0, 4, 2, 0] if memory == "mapped" else [4, 4, 2, 0])
    assert seen == CLEAN


def test_mapped_and_copied_are_measured(script: Callable[..., dict[str, Any]]) -> None:
    seen = script(
        """
        with load_engine(path) as engine:
            correct(engine, 3, 1)
            reason = engine.memory_reason
        report(reason=reason)
        """
    )
    assert "measured at load: copied 0." in seen.pop("reason")
    assert seen == CLEAN


def test_any_thread_may_run_and_another_may_close(script: Callable[..., dict[str, Any]]) -> None:
    seen = script(
        """
        from concurrent.futures import ThreadPoolExecutor
        engine = load_engine(path, workers=2, memory="copied")
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda seed: correct(engine, 1 + seed % 4, seed), range(300)))
        closer = threading.Thread(target=engine.close)
        closer.start(); closer.join()
        report()
        """
    )
    assert seen == CLEAN


def test_loaded_in_a_thread_that_is_gone(script: Callable[..., dict[str, Any]]) -> None:
    """Pycuda releases a context only where it is current, or in the thread that made it: that thread is no more."""
    seen = script(
        """
        made = []
        maker = threading.Thread(target=lambda: made.append(load_engine(path)))
        maker.start(); maker.join()
        correct(made[0], 2, 5)
        made[0].close()
        with load_engine(path) as again:
            correct(again, 2, 6)
        report()
        """
    )
    assert seen == CLEAN


def test_an_engine_that_nobody_holds_is_freed(script: Callable[..., dict[str, Any]]) -> None:
    assert script("load_engine(path)\nreport()") == CLEAN


def test_the_interpreters_exit_closes_an_open_engine(script: Callable[..., dict[str, Any]]) -> None:
    seen = script(
        """
        engine = load_engine(path)
        class Last:
            def __del__(self, write=os.write, dumps=json.dumps, device=device):
                write(1, (dumps(device.state()) + "\\n").encode())
        sys.modules["last"] = Last()  # ends after the exit handlers
        """
    )
    assert seen == CLEAN


LOADING = ("cuCtxPushCurrent", "cuStreamCreate", "cuMemAlloc", "cuMemHostAlloc", "cuMemcpyHtoDAsync",
           "cuMemcpyDtoHAsync", "cuStreamSynchronize", "cuDevicePrimaryCtxRetain")  # fmt: skip


@pytest.mark.parametrize("call", LOADING)
def test_a_failure_while_loading_leaks_nothing(script: Callable[..., dict[str, Any]], call: str) -> None:
    seen = script(
        f"""
        device.fail({call!r}, code=999)  # pycuda itself tries again when it is out of memory
        try:
            load_engine(path, memory="copied")
            said = "loaded"
        except EngineError as error:
            said = str(error)
        between = device.state()
        with load_engine(path) as engine:
            correct(engine, 4, 2)
        report(said=said, between=between)
        """
    )
    assert f"CUDA call {call} failed: made-up failure" in seen.pop("said")
    assert seen.pop("between") == CLEAN
    assert seen == CLEAN


@pytest.mark.parametrize("call", ["cuCtxPushCurrent", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuStreamSynchronize"])
def test_a_failure_while_running_leaks_nothing(script: Callable[..., dict[str, Any]], call: str) -> None:
    seen = script(
        f"""
        with load_engine(path, memory="copied") as engine:
            device.fail({call!r}, code=999)
            try:
                engine.run(tensor(2))
                said = "ran"
            except InferenceError as error:
                said = str(error)
            correct(engine, 3, 3)
        report(said=said)
        """
    )
    assert f"CUDA call {call} failed: made-up failure; this run is lost, the engine goes on" in seen.pop("said")
    assert seen == CLEAN


@pytest.mark.parametrize("memory", ["mapped", "copied"])
def test_a_sticky_error_is_closed_and_opened_again(script: Callable[..., dict[str, Any]], memory: str) -> None:
    lines = f"""
        engine = load_engine(path, memory={memory!r})
        device.fail("cuStreamSynchronize", code=700, sticky=True)
        try:
            engine.run(tensor(2))
            said = "ran"
        except InferenceError as error:
            said = str(error)
        sys.stderr.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # pycuda complains that it cannot free in a broken context
        engine.close()
        between = device.state()
        with load_engine(path, memory={memory!r}) as again:
            correct(again, 4, 4)
        report(said=said, between=between)
        """
    seen = script(lines)
    assert "an illegal memory access was encountered; the GPU's context is lost" in seen.pop("said")
    assert seen.pop("between") == CLEAN
    assert seen == CLEAN
