"""Every name of TensorRT and pycuda that edgeface uses exists, with those parameters, in the real packages.

The stand-ins of `tests/fakes` know exactly the names that the code uses: a name that the code used beside them would
fail the tests that run on them. So it is enough to hold the stand-ins against the real bindings. Those come from
folders that `.ci/tensorrt` fills: EDGEFACE_TEST_BINDINGS/VERSION holds an unpacked bindings package.
"""

from __future__ import annotations

import enum
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_cuda import FakeCuda
from fake_driver import compile_driver, why_not
from fake_graphs import bindings as bindings_of
from fake_tensorrt import FakeTensorRt

PROBE = Path(__file__).with_name("probe.py")
VERSIONS = ("10.3.0", "10.16.1.11", "11.4.0.106")
STUBS = """
#define F(name) void *name(void) { return 0; }
F(createInferBuilder_INTERNAL) F(createInferRefitter_INTERNAL) F(createInferRuntime_INTERNAL)
F(createNvOnnxParser_INTERNAL) F(createNvOnnxParserRefitter_INTERNAL) F(getNvOnnxParserVersion)
F(getBuilderPluginRegistry) F(getPluginRegistry) F(initLibNvInferPlugins)
"""


def surface(module: Any) -> dict[str, list[str]]:
    """What a stand-in knows: names, ``Class.member`` among them, each with the parameters that it is called with."""
    found: dict[str, list[str]] = {}
    for name, value in vars(module).items():
        if isinstance(value, type) and issubclass(value, enum.Enum):
            found.update({f"{name}.{member}": [] for member in value.__members__})
        elif isinstance(value, type):
            found[name] = []
            for member, function in vars(value).items():
                if member.startswith("_") and member != "__int__":
                    continue
                if isinstance(function, type) and issubclass(function, enum.Enum):  # the enumeration inside ILogger
                    found.update({f"{name}.{member}.{each}": [] for each in function.__members__})
                    continue
                plain = getattr(function, "__func__", function)
                parameters = list(inspect.signature(plain).parameters) if callable(plain) else []
                found[f"{name}.{member}"] = [each for each in parameters if each != "self"]
        elif hasattr(value, "__dict__") and not callable(value):  # a namespace of constants
            found.update({f"{name}.{member}": [] for member in vars(value)})
        else:
            found[name] = list(inspect.signature(value).parameters) if callable(value) else []
    return found


def ask(package: str, wanted: dict[str, list[str]], environment: dict[str, str]) -> list[str]:
    """What the real package lacks of that, found out in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(PROBE), package],
        input=json.dumps(wanted),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lacking: list[str] = json.loads(done.stdout)
    return lacking


def bindings(version: str) -> Path:
    given = os.environ.get("EDGEFACE_TEST_BINDINGS")
    if given is None:
        pytest.skip("EDGEFACE_TEST_BINDINGS is not set: `.ci/tensorrt` fetches the bindings and runs this")
    folder = Path(given) / version
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there: the bindings of TensorRT {version} could not be fetched")
    return folder


@pytest.fixture(scope="session")
def stub_libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Libraries that let the bindings be imported on a machine without TensorRT."""
    folder = tmp_path_factory.mktemp("stubs")
    for major in ("10", "11"):
        for library in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
            name = f"lib{library}.so.{major}"
            command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), "-x", "c", "-"]
            subprocess.run(command, input=STUBS if library == "nvinfer" else "", text=True, check=True)
    return folder


@pytest.mark.parametrize("version", VERSIONS)
def test_tensorrt(version: str, stub_libraries: Path) -> None:
    folder = bindings(version)
    wanted = surface(FakeTensorRt(FakeCuda()).module)
    assert len(wanted) > 20
    environment = {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(stub_libraries)}
    assert ask("tensorrt_bindings", wanted, environment) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_probe_finds_what_is_not_there(version: str, stub_libraries: Path) -> None:
    folder = bindings(version)
    wanted = {
        "Runtime.deserialise": [],
        "IExecutionContext.set_tensor_address": ["name", "address"],
        "DataType.FLOAT": [],
    }
    environment = {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(stub_libraries)}
    assert ask("tensorrt_bindings", wanted, environment) == [
        "Runtime.deserialise: no such name",
        "IExecutionContext.set_tensor_address: no parameter 'address'",
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_loading_an_engine_without_a_driver_is_an_error_of_ours(version: str, stub_libraries: Path) -> None:
    """With the real bindings, and no driver: the driver is probed before TensorRT is asked for a runtime."""
    folder = bindings(version)
    code = (
        "import sys, tensorrt_bindings; sys.modules['tensorrt'] = tensorrt_bindings\n"
        "from pathlib import Path\n"
        "from edgeface.errors import MissingDependencyError\n"
        "from edgeface.runtime.tensorrt import import_tensorrt\n"
        "from edgeface.runtime.tensorrt_log import TensorRtLog\n"
        "from edgeface.runtime.cuda import acquire_gpu\n"
        "trt = import_tensorrt('tensorrt')\n"
        "log = TensorRtLog(trt)\n"
        "log.native.log(trt.ILogger.Severity.ERROR, ' engine is broken ')\n"
        "assert log.said() == 'engine is broken', log.said()\n"
        "try:\n    acquire_gpu()\n"
        "except MissingDependencyError as error:\n    print(error)\n"
    )
    environment = {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(stub_libraries)}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "NVIDIA driver" in done.stdout or "pycuda is not installed" in done.stdout


def test_cuda_bindings() -> None:
    """Importing them needs no driver; only a call does."""
    folder = os.environ.get("EDGEFACE_TEST_CUDA_BINDINGS")
    if folder is None or not Path(folder).is_dir():
        pytest.skip("EDGEFACE_TEST_CUDA_BINDINGS names no folder: `.ci/tensorrt` fetches cuda-bindings and runs this")
    wanted = surface(bindings_of(FakeCuda()))
    assert len(wanted) >= 10
    assert ask("cuda.bindings.driver", wanted, {"PYTHONPATH": folder}) == []


@pytest.mark.parametrize("version", VERSIONS)
def test_compiling_without_a_gpu_is_an_error_of_ours(version: str, stub_libraries: Path) -> None:
    """With the real bindings: no builder, the monitor that reports phases, and the numbers that flags are made of."""
    folder = bindings(version)
    code = (
        "import sys, tensorrt_bindings; sys.modules['tensorrt'] = tensorrt_bindings\n"
        "from edgeface.engines.machine import find_machine\n"
        "from edgeface.engines.tensorrt_builder import _cancellable, make_builder\n"
        "from edgeface.errors import BuildError\n"
        "from types import SimpleNamespace\n"
        "machine = find_machine('tensorrt')\n"
        "config, stages = SimpleNamespace(), []\n"
        "with _cancellable(machine.trt, config, lambda *stage: stages.append(stage) or (lambda done: None)):\n"
        "    config.progress_monitor.phase_start('Building', None, 3)\n"
        "    assert config.progress_monitor.step_complete('Building', 0)\n"
        "assert stages == [('compiling: Building', 3)], stages\n"
        "int(machine.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)\n"
        "try:\n    make_builder(machine)\n"
        "except BuildError as error:\n    print(error)\n"
    )
    environment = {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(stub_libraries)}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "gives no builder" in done.stdout
    assert "needs an NVIDIA GPU with its driver" in done.stdout


def test_pycuda(tmp_path: Path) -> None:
    """The real pycuda, over the stand-in for the driver."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    wanted = surface(FakeCuda().module)
    assert len(wanted) > 25
    assert ask("pycuda.driver", wanted, {"LD_PRELOAD": str(compile_driver(tmp_path))}) == []
