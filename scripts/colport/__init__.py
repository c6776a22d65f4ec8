"""ColPort: late-interaction retrieval models from a checkpoint to ONNX Runtime, with the proof.

>>> from colport import Encoder                                    # doctest: +SKIP
>>> encoder = Encoder("results/models/colpali-demo/fp32")          # doctest: +SKIP
>>> queries = encoder.encode_queries(["a red pie chart"])          # doctest: +SKIP
>>> documents = encoder.encode_documents([page])                   # doctest: +SKIP
>>> encoder.score(queries, documents).shape                        # doctest: +SKIP
(1, 1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Encoder", "__version__"]

if TYPE_CHECKING:
    from colport.runtime.encoder import Encoder


def __getattr__(name: str) -> Any:
    """Load the encoder on first use, so that importing the package costs nothing."""
    if name == "Encoder":
        from colport.runtime.encoder import Encoder

        return Encoder
    raise AttributeError(f"module 'colport' has no attribute {name!r}")
