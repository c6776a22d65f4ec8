"""How much memory a checkpoint takes in PyTorch, and what is done where less is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from colport.base.files import visible_files
from colport.base.machine import available_mb
from colport.tensors.weights import count

_BASE_MB = 1500
"""Of Python, its libraries, and the weights of one operator."""
ONCE_MB = 6000.0
"""MB (10**6 bytes) that are enough for a few inputs: to hold more weights takes longer."""
_BYTES = 6
"""Of a parameter in memory: the mapped bf16 checkpoint and its fp32 copy."""
_PAGE_TOKENS = 1030


def activations_mb(parameters: int) -> float:
    """Of one page of 1030 tokens: a base, and so much a parameter."""
    return 80 + 0.25e-6 * parameters


def whole_mb(parameters: int) -> float:
    """Of a reference whose weights are all in memory."""
    return _BASE_MB + _BYTES * parameters / 1e6 + activations_mb(parameters)


def needed_mb(parameters: int, allowed_mb: float) -> float:
    """What a reference takes, in MB (10**6 bytes).

    Args:
        parameters: Of its checkpoint.
        allowed_mb: The memory that it may take, maybe infinite.
    """
    return min(whole_mb(parameters), max(allowed_mb, _BASE_MB + activations_mb(parameters)))


@dataclass(frozen=True)
class Room:
    """The memory of a reference.

    Attributes:
        parameters: Of its checkpoint.
        allowed_mb: MB (10**6 bytes) that it may take.
    """

    parameters: int
    allowed_mb: float

    @classmethod
    def of(cls, folder: Path, allowed_mb: float | None) -> Room:
        """The room of a checkpoint's folder; by default what the machine has left for it.

        Raises:
            CheckpointError: A safetensors file is not valid.
        """
        files = (file for file in visible_files(folder) if file.suffix == ".safetensors")
        return cls(count(files), available_mb() if allowed_mb is None else allowed_mb)

    @property
    def is_streamed(self) -> bool:
        """Whether weights stay in the checkpoint's files and are read in each pass."""
        return whole_mb(self.parameters) > self.allowed_mb

    @property
    def tokens(self) -> int:
        """Tokens of a pass, padding included, for which it has the memory; at least one."""
        of_token = activations_mb(self.parameters) / _PAGE_TOKENS
        return max(1, int((self.allowed_mb - _BASE_MB) / of_token))

    @property
    def weights(self) -> str:
        """Where the weights are, as records say it: ``in memory`` or ``streamed``."""
        return "streamed" if self.is_streamed else "in memory"

    @property
    def note(self) -> str:
        """A streamed reference in a sentence; empty for one in memory."""
        if not self.is_streamed:
            return ""
        least = needed_mb(self.parameters, 0)
        return (
            "the weights are read from the checkpoint's files in each pass: it needs "
            f"{whole_mb(self.parameters):.0f} MB to hold them, {self.allowed_mb:.0f} MB are allowed"
            + (f", which is less than the {least:.0f} MB that it takes so, too")
            * (least > self.allowed_mb)
        )
