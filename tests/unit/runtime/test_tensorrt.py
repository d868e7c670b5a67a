"""TensorRT engines on a made-up Jetson: numbers, memory, threads, and the order in which things close."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fake_jetson import Jetson, tones
from fake_tensorrt import engine_file

from edgeface.errors import ClosedError, EngineError, InputError
from edgeface.runtime import Engine, cuda, load_engine

if TYPE_CHECKING:
    from collections.abc import Callable

Batch = Any


@pytest.mark.parametrize("memory", ["mapped", "copied"])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_the_numbers_are_the_networks(jetson: Jetson, batch: Batch, memory: str, count: int) -> None:
    with jetson.load(memory=memory) as engine:
        tensor = batch(count)
        np.testing.assert_array_equal(engine.run(tensor)["embedding"], tones(tensor)["out"])


def test_is_an_engine(jetson: Jetson) -> None:
    with jetson.load() as engine:
        assert isinstance(engine, Engine)
        assert engine.description.startswith("tensorrt 10.3.0 on Orin (compute capability 8.7), 1 worker, ")


def test_batches_of_changing_size(jetson: Jetson, batch: Batch) -> None:
    with jetson.load() as engine:
        for seed, count in enumerate([4, 1, 2, 2, 4, 3, 1]):
            tensor = batch(count, seed)
            np.testing.assert_array_equal(engine.run(tensor)["embedding"], tones(tensor)["out"])


def test_results_belong_to_the_caller(jetson: Jetson, batch: Batch) -> None:
    with jetson.load() as engine:
        first = engine.run(batch(2, 1))["embedding"]
        kept = first.copy()
        engine.run(batch(2, 2))
        np.testing.assert_array_equal(first, kept)
        first[:] = 0  # writable, too


def test_a_tensor_of_any_strides(jetson: Jetson, batch: Batch) -> None:
    with jetson.load() as engine:
        tensor = batch(4)[:, ::-1, :, ::-1]
        np.testing.assert_allclose(engine.run(tensor)["embedding"], tones(tensor)["out"], rtol=1e-5)


@pytest.mark.parametrize(
    "tensor",
    [
        None,
        np.zeros((1, 3, 112, 112)),
        np.zeros((1, 3, 112, 96), np.float32),
        np.zeros((5, 3, 112, 112), np.float32),
        np.zeros((0, 3, 112, 112), np.float32),
        np.zeros((3, 112, 112), np.float32),
    ],
)
def test_refuses_what_is_no_input(jetson: Jetson, batch: Batch, tensor: Any) -> None:
    with jetson.load() as engine:
        with pytest.raises(InputError, match="tones"):
            engine.run(tensor)
        assert len(engine.run(batch(1))["embedding"]) == 1


def test_refuses_shapes_outside_the_profile(jetson: Jetson) -> None:
    content = engine_file(
        input_name="data", low=(2, 3, 112, 112), high=(4, 3, 112, 112), outputs=["out"], network="tones"
    )
    with (
        load_engine(jetson.write(content)) as engine,
        pytest.raises(InputError, match=r"from \(2, 3, 112, 112\) to \(4, 3, 112, 112\), got \(1, 3"),
    ):
        engine.run(np.zeros((1, 3, 112, 112), np.float32))


@pytest.mark.parametrize("options", [{"workers": 0}, {"workers": 17}, {"workers": True}, {"memory": "fast"}])
def test_refuses_options_out_of_range(jetson: Jetson, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        jetson.load(**options)


def test_every_output_gets_an_address_and_the_named_ones_come_back(jetson: Jetson, batch: Batch) -> None:
    jetson.trt.networks["two"] = lambda tensor: {**tones(tensor), "spare": tones(tensor)["out"][:, :1]}
    content = engine_file(
        input_name="data", low=(1, 3, 112, 112), high=(4, 3, 112, 112), outputs=["spare", "out"], network="two"
    )
    with load_engine(jetson.write(content)) as engine:
        assert list(engine.run(batch(2))) == ["embedding"]


# Memory -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("memory", ["mapped", "copied"])
def test_100000_frames_allocate_nothing(jetson: Jetson, memory: str) -> None:
    jetson.trt.networks["constant"] = lambda tensor: {"out": np.zeros((len(tensor), 8), np.float32)}
    content = engine_file(input_name="data", low=(1, 3, 8, 8), high=(4, 3, 8, 8), outputs=["out"], network="constant")
    path = jetson.write(content, input_size=(8, 8))
    tensors = [np.zeros((count, 3, 8, 8), np.float32) for count in (1, 4, 2)]
    with load_engine(path, memory=memory) as engine:
        for tensor in tensors * 100:
            engine.run(tensor)
        allocations = [jetson.cuda.calls[call] for call in ("cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate")]
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            for number in range(3_000):
                engine.run(tensors[number % 3])
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        resident = _resident_kb()
        for number in range(97_000):
            engine.run(tensors[number % 3])
        assert _resident_kb() - resident < 2048
        assert grown < 20_000, "bytes of Python memory kept by 3,000 runs"
        assert allocations == [jetson.cuda.calls[c] for c in ("cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate")]


def _resident_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


# Threads ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("workers", [1, 3])
def test_many_threads_get_their_own_results(jetson: Jetson, batch: Batch, workers: int) -> None:
    tensors = [batch(1 + seed % 4, seed) for seed in range(60)]
    with jetson.load(workers=workers) as engine, ThreadPoolExecutor(8) as pool:
        for tensor, result in zip(tensors, pool.map(engine.run, tensors), strict=True):
            np.testing.assert_array_equal(result["embedding"], tones(tensor)["out"])


def _slow(seconds: float, running: list[int], most: list[int]) -> Callable[[Any], dict[str, Any]]:
    """The network `tones`, taking its time, and noting how many run at once."""
    lock = threading.Lock()

    def network(tensor: Any) -> dict[str, Any]:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(seconds)
        with lock:
            running[0] -= 1
        return tones(tensor)

    return network


def test_no_more_runs_at_once_than_workers(jetson: Jetson, batch: Batch) -> None:
    most = [0]
    jetson.trt.networks["tones"] = _slow(0.01, [0], most)
    with jetson.load(workers=2, memory="copied") as engine, ThreadPoolExecutor(6) as pool:
        list(pool.map(engine.run, [batch(1)] * 12))
    assert most == [2]


def test_two_engines_overlap(jetson: Jetson, batch: Batch) -> None:
    """Detection of the next frame runs while this one is embedded: each engine has its own stream."""
    most = [0]
    jetson.trt.networks["tones"] = _slow(0.02, [0], most)
    one = load_engine(jetson.write(name="one.plan"), memory="copied")
    two = load_engine(jetson.write(name="two.plan"), memory="copied")
    with one, two, ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda engine: engine.run(batch(1)), [one, two] * 5))
    assert most == [2]


# Closing ------------------------------------------------------------------------------------------------------------
def test_closing_twice_and_running_after(jetson: Jetson, batch: Batch) -> None:
    engine = jetson.load()
    engine.close()
    engine.close()
    with pytest.raises(ClosedError, match="tones: this engine was closed"):
        engine.run(batch(1))


def test_closing_waits_for_the_run_in_progress(jetson: Jetson, batch: Batch) -> None:
    jetson.trt.networks["tones"] = _slow(0.05, [0], [0])
    engine = jetson.load(memory="copied")
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(engine.run, batch(1))
        waiting = pool.submit(engine.run, batch(1))
        time.sleep(0.02)
        engine.close()
        done = [future.exception() for future in (running, waiting)]
    assert [type(error) for error in done] in ([type(None), ClosedError], [ClosedError, type(None)])


def test_closed_from_another_thread(jetson: Jetson) -> None:
    engine = jetson.load()
    thread = threading.Thread(target=engine.close)
    thread.start()
    thread.join()
    assert jetson.cuda.retained == 0


def test_the_context_is_shared_and_released_with_the_last_engine(jetson: Jetson, batch: Batch) -> None:
    one, two = jetson.load(), jetson.load()
    assert jetson.cuda.retained == 1
    one.close()
    assert jetson.cuda.retained == 1
    assert len(two.run(batch(1))["embedding"]) == 1
    two.close()
    assert jetson.cuda.retained == 0


def test_an_engine_that_nobody_holds_frees_its_memory(jetson: Jetson) -> None:
    jetson.load()
    gc.collect()
    assert jetson.cuda.memory_in_use() == 0


SCRIPT = """
    import os, sys
    sys.path[:0] = {paths!r}
    from types import SimpleNamespace
    from fake_cuda import FakeCuda
    from fake_tensorrt import FakeTensorRt
    import numpy as np
    cuda = FakeCuda()
    trt = FakeTensorRt(cuda)
    trt.networks["tones"] = lambda tensor: {{"out": tensor.reshape(len(tensor), -1)[:, :8]}}
    sys.modules.update({{"pycuda": SimpleNamespace(driver=cuda.module), "pycuda.driver": cuda.module,
                        "tensorrt": trt.module}})
    from edgeface.runtime import load_engine
    engine = load_engine({engine!r})
    tensor = np.ones((1, 3, 112, 112), np.float32)
    engine.run(tensor)
"""


def _python(jetson: Jetson, lines: str) -> subprocess.CompletedProcess[str]:
    paths = [path for path in sys.path if path.endswith("fakes")]
    script = textwrap.dedent(SCRIPT).format(paths=paths, engine=str(jetson.write())) + textwrap.dedent(lines)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)


def test_the_interpreters_exit_closes_in_order(jetson: Jetson) -> None:
    done = _python(
        jetson,
        """
        import atexit  # handlers run last in, first out; edgeface's is in, so one of before would see the end
        print("open:", cuda.memory_in_use() > 0, cuda.retained)
        class Last:
            def __del__(self, say=os.write, state=cuda, trt=trt):
                say(1, repr((state.memory_in_use(), state.retained, state.leaks, sum(trt.alive.values()))).encode())
        sys.modules["last"] = Last()  # outlives the exit handlers
        """,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\n") == ["open: True 1", "(0, 0, [], 0)"]


def test_fork_is_refused_with_a_message(jetson: Jetson) -> None:
    done = _python(
        jetson,
        """
        from edgeface.errors import EngineError
        child = os.fork()
        if child == 0:
            before = sum(cuda.calls.values())
            try:
                engine.run(tensor)
            except EngineError as error:
                print(error, flush=True)
            engine.close()
            print("calls in the child:", sum(cuda.calls.values()) - before, flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        print(len(engine.run(tensor)["embedding"]), "run in the parent")
        """,
    )
    out = done.stdout
    assert "this process was forked from one that used the GPU" in out, done.stderr
    assert "'spawn'" in out
    assert "calls in the child: 0" in out
    assert "1 run in the parent" in out


def test_engines_can_be_opened_after_a_fork(jetson: Jetson) -> None:
    jetson.load().close()
    child = os.fork()
    if child == 0:
        try:
            jetson.load().close()
        except BaseException:  # noqa: BLE001 - the child must not run the rest of the tests
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_lost_context_blocks_new_engines_until_all_are_closed(jetson: Jetson) -> None:
    engine = jetson.load()
    jetson.cuda.broken = "an illegal memory access was encountered"
    with pytest.raises(EngineError, match="context is lost"):
        engine.run(np.zeros((1, 3, 112, 112), np.float32))
    with pytest.raises(EngineError, match=r"1 engine\(s\) on it are still open; close them all"):
        jetson.load()
    engine.close()
    with jetson.load() as again:
        assert len(again.run(np.zeros((2, 3, 112, 112), np.float32))["embedding"]) == 2
    assert cuda._shared is None
