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
__all__ = ["Captioner", "Encoder", "__version__"]

if TYPE_CHECKING:
    from colport.runtime.captioner import Captioner
    from colport.runtime.encoder import Encoder


def __getattr__(name: str) -> Any:
    """Load a runtime on first use, so that importing the package costs nothing."""
    if name in ("Captioner", "Encoder"):
        from importlib import import_module

        return getattr(import_module(f"colport.runtime.{name.lower()}"), name)
    raise AttributeError(f"module 'colport' has no attribute {name!r}")
