"""Sums of integer products: whether this processor adds them exactly, and what it does if not.

x86 processors without VNNI, AVX-VNNI or AMX add two products of an unsigned with a signed byte in
16 bits, and saturate. Weights of the exact range (``quantization.range``) never reach that limit,
those of the full range do.
"""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import numpy as np

from colport.base.errors import UnsupportedError
from colport.providers.table import PROVIDERS, Provider

EXACT, FULL = "exact", "full"
RANGES = (EXACT, FULL)
"""Ranges of 8-bit weights that are multiplied with 8-bit activations."""

IN_WORDS = {
    EXACT: "exact on every processor",
    FULL: "exact with VNNI, AVX-VNNI or AMX; elsewhere by slower kernels that ColPort takes",
}
"""What a folder of each range promises of its integer sums."""

GRAPH = Path(__file__).with_suffix(".onnx")
"""What :func:`saturates` runs: sums of products, as ``tests/stored_graphs.py`` makes it."""

_LARGEST = (255, 127)


@cache
def saturates() -> bool:
    """Whether ONNX Runtime's CPU kernels add the largest products wrongly on this processor.

    They are asked, so that a processor that nobody has heard of is known, too.
    """
    from colport.base.library import onnxruntime

    session = onnxruntime.InferenceSession(str(GRAPH), providers=["CPUExecutionProvider"])
    unsigned, signed = _LARGEST
    feeds = {"a": np.full((1, 4), unsigned, np.uint8), "b": np.full((4, 1), signed, np.int8)}
    return int(session.run(None, feeds)[0].item()) != 4 * unsigned * signed


def needs_exact_kernels(range_: str | None, provider: Provider, place: object) -> bool:
    """Whether a folder's sessions need kernels that do not saturate, which is said once.

    Args:
        range_: The folder's, of :data:`RANGES`, or ``None`` where no such products are.
        provider: What it runs on.
        place: The folder, for messages.

    Raises:
        UnsupportedError: They do, and the provider has none.
    """
    if range_ != FULL or not saturates():
        return False
    found = f"{place}: has int8 weights in the full range, whose sums saturate on this processor"
    if not provider.exact_sums:
        raise UnsupportedError(
            f"{found}, and {provider.execution_provider} has no other kernels for them; "
            f"providers that have: {', '.join(promising())}."
        )
    warnings.warn(
        f"{found}; it is run by exact kernels, which are several times slower. "
        "Quantize it with the exact range.",
        stacklevel=3,
    )
    return True


def promising() -> list[str]:
    """Types of the providers that compute the full range exactly on every processor."""
    return [provider.name for provider in PROVIDERS.values() if provider.exact_sums]
