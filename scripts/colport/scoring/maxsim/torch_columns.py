"""MaxSim's products on a device of PyTorch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


class TorchColumns:
    """Products in float32 on a device; a :class:`colport.scoring.maxsim.blocks.Columns`."""

    def __init__(self, tokens: np.ndarray, device: str) -> None:
        import torch

        # A copy: PyTorch takes no read-only memory, as of a memory-mapped file.
        self._values = torch.tensor(np.asarray(tokens, np.float32), device=device).T

    def best(self, rows: np.ndarray, starts: np.ndarray, work: np.ndarray) -> np.ndarray:
        """See :class:`colport.scoring.maxsim.blocks.Columns`; the result is not in ``work``."""
        import torch

        lengths = np.diff(np.append(starts, len(rows)))
        device = self._values.device
        with torch.inference_mode(), _full_precision():
            similarities = torch.tensor(rows, device=device) @ self._values
            best = torch.segment_reduce(
                similarities, "max", lengths=torch.tensor(lengths, device=device), axis=0
            )
            return best.cpu().numpy()


def default_device() -> str | None:
    """``cuda`` if this process has imported PyTorch and that sees a GPU; it is never imported."""
    torch: Any = sys.modules.get("torch")
    return "cuda" if torch is not None and torch.cuda.is_available() else None


@contextmanager
def _full_precision() -> Iterator[None]:
    """Float32 products without TF32 or bfloat16, whatever the program has set."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
