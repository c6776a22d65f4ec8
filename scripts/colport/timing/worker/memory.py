"""Out of memory: how it is known, and a limit that makes it happen early."""

from __future__ import annotations

import re
from pathlib import Path

from colport.base.machine import said

_MESSAGE = re.compile(
    r"out of memory|bad_alloc|alloc(ate)? (enough )?memory|not enough memory|alloc_failed",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the machine or on a device.

    PyTorch's and ONNX Runtime's allocators have no common class, so their messages are read:
    ``DefaultCPUAllocator: can't allocate memory``, ``CUDA out of memory``, ``Failed to allocate
    memory for requested buffer``, ``std::bad_alloc``, ``CUBLAS_STATUS_ALLOC_FAILED``.
    """
    return isinstance(error, MemoryError) or names_memory(str(error))


def names_memory(text: str) -> bool:
    """Whether the text of an error, or the last output of a process, names want of memory."""
    return _MESSAGE.search(text) is not None


def limit_memory(megabytes: int) -> None:
    """Refuse this process more private, writable memory than so many MiB.

    ``RLIMIT_DATA`` counts what is allocated (Linux 4.7 and newer), ``RLIMIT_AS`` would count mapped
    weights and libraries too, which the kernel can drop.
    """
    import resource

    size = megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def kernel_kills(vmstat: Path = Path("/proc/vmstat")) -> int:
    """How many processes the kernel has killed for want of memory; 0 where it does not say."""
    found = re.search(r"^oom_kill (\d+)$", said(vmstat), re.MULTILINE)
    return int(found[1]) if found else 0
