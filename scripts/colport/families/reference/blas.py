"""NumPy's products in one thread, beside a runtime that has threads of its own.

OpenBLAS's threads wait for their next product by spinning, some 20 ms long, and take the cores of
ONNX Runtime's threads meanwhile: a page's call of 4 ms took 8 to 12 now and then.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import lru_cache

from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[object]:
    """Run products of NumPy in the calling thread alone, as long as the block lasts.

    The setting is the process's. Of several threads that ask for it, the first one sets it and puts
    it back (threadpoolctl 3.8).
    """
    return _blas().limit(limits=1)


@lru_cache(maxsize=1)
def _blas() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")
