"""pycuda, memory and streams on a real NVIDIA GPU, and engines where TensorRT is. `pytest -m gpu`."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from edgeface import Detector, Embedder
from edgeface.errors import MissingDependencyError
from edgeface.home import engine_path, model_path
from edgeface.manifest import is_stored
from edgeface.runtime import load_engine
from edgeface.runtime.cuda import BUFFERS, Gpu, Stream, acquire_gpu, gpu_facts, import_pycuda, release_gpu

pytestmark = pytest.mark.gpu

#: `jetson/accept.py` says why INT8 allows so much.
LEAST_COSINE = {"fp32": 0.999, "fp16": 0.999, "mixed": 0.995, "int8": 0.995}


def test_facts(gpu: Gpu) -> None:
    facts = gpu_facts(import_pycuda())
    assert facts.memory_mb > 500
    assert float(facts.compute_capability) >= 5.0


@pytest.mark.parametrize("kind", sorted(BUFFERS))
def test_10000_round_trips(gpu: Gpu, slack_bytes: int, kind: str) -> None:
    """What goes to the device comes back; free memory is what it was."""
    count = 3 * 112 * 112 * 4
    with gpu:
        free_before = gpu.driver.mem_get_info()[0]
        stream, buffer = Stream(gpu), BUFFERS[kind](gpu, count)
        for number in range(10_000):
            buffer.host[:8] = number
            buffer.upload(count, stream)
            if kind == "copied":
                stream.synchronize()
                buffer.host[:8] = -1
            buffer.download(count, stream)
            stream.synchronize()
            assert buffer.host[7] == number
        stream.close()
        buffer.close()
        assert free_before - gpu.driver.mem_get_info()[0] < slack_bytes


def test_mapped_memory_is_the_devices_too(gpu: Gpu) -> None:
    with gpu:
        mapped, copied, stream = BUFFERS["mapped"](gpu, 1000), BUFFERS["copied"](gpu, 1000), Stream(gpu)
        mapped.host[:] = np.arange(1000)
        gpu.driver.memcpy_dtod_async(copied.address, mapped.address, 4000, stream.raw)
        copied.download(1000, stream)
        stream.synchronize()
        np.testing.assert_array_equal(copied.host, np.arange(1000))
        stream.close()
        mapped.close()
        copied.close()


def test_any_thread(gpu: Gpu) -> None:
    def once(number: int) -> None:
        with gpu:
            stream, buffer = Stream(gpu), BUFFERS["copied"](gpu, 100)
            buffer.host[:] = number
            buffer.upload(100, stream)
            buffer.download(100, stream)
            stream.synchronize()
            assert buffer.host[99] == number
            stream.close()
            buffer.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(once, range(200)))


def test_the_context_is_released_and_opened_again() -> None:
    try:
        import_pycuda()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    for _ in range(3):
        opened = acquire_gpu()
        closer = threading.Thread(target=release_gpu, args=(opened,))
        closer.start()
        closer.join()


@pytest.mark.parametrize("memory", sorted(BUFFERS))
def test_the_embedders_engine_says_what_onnxruntime_says(gpu: Gpu, photos: dict[str, Any], memory: str) -> None:
    precision = os.environ.get("EDGEFACE_TEST_PRECISION", "int8")
    path = engine_path("sface", precision)
    if not is_stored(path):
        pytest.skip(f"{path} is not there: `edgeface build sface --target tensorrt --calibration FOLDER` makes it")
    with load_engine(path, memory=memory) as ours:
        made = ours.manifest.precision  # a build for INT8 may have found FP16 faster
        onnx = model_path("sface", "fp32" if made == "fp16" else precision)
        if not is_stored(onnx):
            pytest.skip(f"{onnx} is not there: `edgeface build sface --precision {precision} --calibration FOLDER`")
        with load_engine(onnx) as theirs, load_engine(model_path("yunet")) as finder:
            detector, embedders = Detector(finder), (Embedder(ours), Embedder(theirs))
            for photo in photos.values():
                points = detector.detect(photo).landmarks
                one, other = (embedder.embed(photo, points)[0] for embedder in embedders)
                assert one @ other > LEAST_COSINE[made]
