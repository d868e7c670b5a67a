"""The real pycuda over a stand-in for the driver: buffers' lifetime, mapped memory, streams, threads, failures.

Each test runs a script in a process of its own (`conftest.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fake_driver import CLEAN

if TYPE_CHECKING:
    from collections.abc import Callable


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
    assert seen.pop("during") == ([0, 4, 2, 0, 0] if memory == "mapped" else [4, 4, 2, 0, 0])
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
