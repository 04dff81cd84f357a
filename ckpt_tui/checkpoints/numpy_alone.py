"""numpy without the threads of its linear algebra, which nothing here uses: they cost 80 ms of CPU, and memory.

`from ckpt_tui.checkpoints.numpy_alone import np` loads numpy; like every module that does, import it lazily. What is
set for that is taken back, so that no training that we start inherits it.
"""

from __future__ import annotations

import os

_VARIABLE = "OPENBLAS_NUM_THREADS"

if _VARIABLE in os.environ:
    import numpy as np
else:
    os.environ[_VARIABLE] = "1"
    try:
        import numpy as np
    finally:
        del os.environ[_VARIABLE]

__all__ = ["np"]
