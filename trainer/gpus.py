"""What the GPUs of this machine do, asked of the driver's own library (NVML), which lies on every machine with one.

By ctypes and not by nvidia-ml-py: that is a wrapper of the same five calls, and one more thing to install.
"""

from __future__ import annotations

import ctypes
from typing import Any

MAX_GPUS = 16
_LIBRARY = "libnvidia-ml.so.1"


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class Gpus:
    """`read` gives one dict a GPU: index, utilization_percent, memory_used_bytes, memory_total_bytes; None where the
    driver does not tell. Nothing here raises; without a driver there are no GPUs.

    library: what answers in place of NVML.
    """

    def __init__(self, library: Any = None) -> None:
        self._handles: list[ctypes.c_void_p] = []
        try:
            self._nvml = library if library is not None else ctypes.CDLL(_LIBRARY)
            if self._nvml.nvmlInit_v2() != 0:
                return
            count = ctypes.c_uint()
            if self._nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
                return
            for index in range(min(count.value, MAX_GPUS)):
                handle = ctypes.c_void_p()
                if self._nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) == 0:
                    self._handles.append(handle)
        except (OSError, AttributeError):  # no driver, or one that is older than ten years
            self._handles = []

    def read(self) -> list[dict[str, Any]]:
        return [self._read(index, handle) for index, handle in enumerate(self._handles)]

    def _read(self, index: int, handle: ctypes.c_void_p) -> dict[str, Any]:
        busy, memory = _Utilization(), _Memory()
        # A GPU that fell off the bus, or a slice of one (MIG), has no utilization to tell.
        is_busy_told = self._nvml.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(busy)) == 0
        is_memory_told = self._nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0
        return {
            "index": index,
            "utilization_percent": int(busy.gpu) if is_busy_told else None,
            "memory_used_bytes": int(memory.used) if is_memory_told else None,
            "memory_total_bytes": int(memory.total) if is_memory_told else None,
        }
