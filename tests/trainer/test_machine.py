"""What the machine does: /proc, and a driver's library of our own that answers as NVML does."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from trainer.gpus import Gpus
from trainer.machine import Machine

# Two GPUs; the second has no utilization to tell, as a slice of one (MIG) has none.
NVML = """
typedef struct { unsigned int gpu, memory; } utilization;
typedef struct { unsigned long long total, free, used; } memory;
static int handles[2] = {0, 1};
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) { *handle = &handles[index]; return 0; }
int nvmlDeviceGetUtilizationRates(void *handle, utilization *rates) {
  if (*(int *)handle == 1) return 3;
  rates->gpu = 93; rates->memory = 40; return 0;
}
int nvmlDeviceGetMemoryInfo(void *handle, memory *info) {
  info->total = 150754820096ULL; info->used = 71200000000ULL + *(int *)handle; info->free = info->total - info->used;
  return 0;
}
"""


@pytest.fixture(scope="module")
def nvml(tmp_path_factory: pytest.TempPathFactory) -> Any:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    directory = tmp_path_factory.mktemp("nvml")
    (directory / "nvml.c").write_text(NVML)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "nvml.so", "nvml.c"], cwd=directory, check=True, timeout=300)
    return ctypes.CDLL(str(directory / "nvml.so"))


def test_gpus_are_told_by_the_driver(nvml: Any) -> None:
    assert Gpus(nvml).read() == [
        {"index": 0, "utilization_percent": 93, "memory_used_bytes": 71_200_000_000,
         "memory_total_bytes": 150_754_820_096},
        {"index": 1, "utilization_percent": None, "memory_used_bytes": 71_200_000_001,
         "memory_total_bytes": 150_754_820_096},
    ]  # fmt: skip


@pytest.mark.parametrize("source", ["int nvmlInit_v2(void) { return 9; }", "int other(void) { return 0; }"])
def test_a_driver_that_does_not_answer_is_none(source: str, tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "nvml.c").write_text(source)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "nvml.so", "nvml.c"], cwd=tmp_path, check=True, timeout=300)
    assert Gpus(ctypes.CDLL(str(tmp_path / "nvml.so"))).read() == []


def test_the_process_and_the_machine_are_measured() -> None:
    machine = Machine()
    until = time.process_time() + 0.2
    while time.process_time() < until:
        pass
    told = machine.read(7)
    assert told.step == 7
    assert told.cpu_percent is not None
    assert 0 < told.cpu_percent < 100.0 * (os.cpu_count() or 1) + 50
    assert told.rss_bytes is not None
    assert told.memory_used_bytes is not None
    assert told.memory_total_bytes is not None
    assert 10_000_000 < told.rss_bytes < told.memory_total_bytes
    assert 0 < told.memory_used_bytes < told.memory_total_bytes
