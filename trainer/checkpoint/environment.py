"""What decides the last bits of a computation besides state and settings: versions, machine, threads, flags.

Each checkpoint tells where it was made. A resume is called exact only where all of it is the same.
"""

from __future__ import annotations

import functools
import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

import torch

_WORDS = {
    "cpu": "processor", "cpu_capability": "vector instructions", "gpus": "GPUs", "gpu_libraries": "CUDA and cuDNN",
    "num_processes": "processes", "deterministic": "deterministic algorithms", "matmul_precision": "matmul precision",
    "tf32": "TF32", "cudnn_benchmark": "cuDNN benchmark", "cublas_workspace": "cuBLAS workspace",
}  # fmt: skip


def environment() -> dict[str, Any]:
    """Where this process computes, in plain types. GPUs count once something was computed on one."""
    uses_gpu = torch.cuda.is_initialized()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if uses_gpu else []
    numpy = sys.modules.get("numpy")
    return {
        "python": platform.python_version(), "torch": str(torch.__version__),
        "numpy": str(numpy.__version__) if numpy is not None else "",
        "cpu": _cpu_name(), "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(), "num_processes": _num_processes(),
        "gpus": gpus,
        "gpu_libraries": f"{torch.version.cuda} {torch.backends.cudnn.version()}" if uses_gpu else "",
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "tf32": torch.backends.cudnn.allow_tf32 if uses_gpu else False,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG", "") if uses_gpu else "",
    }  # fmt: skip


def differences(before: object, now: Mapping[str, Any]) -> list[str]:
    """In words, what is not as it was where the checkpoint was made: `torch 2.12.0 -> 2.13.0`.

    What one of the two does not tell (numpy that was not loaded, GPUs that were not used yet) is not held against it.
    """
    if not isinstance(before, Mapping):
        return ["the checkpoint does not say on what it was made"]
    told = []
    for key, value in now.items():
        old = before.get(key)
        if old is None or old == value or (key in ("numpy", "gpu_libraries") and "" in (old, value)):
            continue
        told.append(f"{_WORDS.get(key, key)} {_word(old)} -> {_word(value)}")
    return told


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return str(value) or "none"


def _num_processes() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


@functools.cache
def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            line = next(line for line in file if line.startswith(("model name", "Model")))
        return " ".join(line.partition(":")[2].split())
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
