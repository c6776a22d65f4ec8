"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685), merged into the base as weights are read.

A folder with ``adapter_config.json`` beside a whole checkpoint is read as transformers reads it:
the base's weights with the adapter on top. ``W + scale * B @ A`` is computed in fp32, block by
block, when a weight is written; a merged copy of the model never exists.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from colport.checkpoints import ADAPTER_CONFIG, read_config
from colport.errors import CheckpointError
from colport.families.skeletons import check_shape, rename_keys
from colport.weights import StoredTensor, TensorEntry, read_header

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

_WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
_PREFIX = "base_model.model."
_PAIR = re.compile(r"^(?P<module>.+)(?P<end>\.lora_[AB]\.weight)$")
_BLOCK_BYTES = 2**24  # of fp32 rows merged at a time

_ALLOWED: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian"),  # others change the base's weights as well
}
_READ = {
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules"),
    *("exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
}
_OF_TRAINING = {
    *("auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying"),
    *("eva_config", "inference_mode", "loftq_config", "lora_dropout", "lora_ga_config"),
    *("megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config"),
    "task_type",
}
"""Settings that change nothing once an adapter is trained; any not named here must be off."""


@dataclass(frozen=True)
class MergedTensor:
    """A weight of the base with its LoRA pair added, in fp32.

    Attributes:
        base: ``[out, in]``.
        a: ``[rank, in]``.
        b: ``[out, rank]``.
        scale: Factor of ``b @ a``.
    """

    base: StoredTensor
    a: TensorEntry
    b: TensorEntry
    scale: float

    @property
    def file(self) -> Path:
        """The base's file."""
        return self.base.file

    @property
    def key(self) -> str:
        """The base's key."""
        return self.base.key

    @property
    def dtype(self) -> np.dtype:
        """float32."""
        return np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        """The base's shape."""
        return self.base.shape

    @property
    def nbytes(self) -> int:
        """Bytes in fp32."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def parts(self) -> tuple[TensorEntry, ...]:
        """The base's tensor and the pair."""
        return (*self.base.parts, self.a, self.b)

    def read(self) -> np.ndarray:
        """See :meth:`StoredTensor.read`."""
        return self.read_rows(0, self.shape[0])

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """See :meth:`StoredTensor.read_rows`.

        Raises:
            CheckpointError: The adapter holds NaN or infinite values, or a file ended early.
        """
        a = _finite(self.a, self.a.read())
        b = _finite(self.b, self.b.read_rows(start, stop)) * np.float32(self.scale)
        merged = np.empty((stop - start, self.shape[1]), np.float32)
        step = max(1, _BLOCK_BYTES // max(merged.strides[0], 1))
        for first in range(0, len(merged), step):
            rows = slice(first, min(first + step, len(merged)))
            merged[rows] = self.base.read_rows(start + rows.start, start + rows.stop)
            merged[rows] += b[rows] @ a
        return merged


def merge(
    folder: Path,
    model: PreTrainedModel,
    sources: Mapping[str, StoredTensor],
    key_mapping: Mapping[str, str],
) -> dict[str, StoredTensor]:
    """The base's weights with the folder's adapter; as they are where it has none.

    Args:
        folder: A checkpoint, with ``adapter_config.json`` and ``adapter_model.safetensors`` or not.
        model: The model on the meta device.
        sources: Parameter name to its tensor in the base.
        key_mapping: Renamings of the model's library.

    Raises:
        CheckpointError: The adapter is pickled, damaged or more than a plain LoRA, or it does not
            hold one pair for each module that it targets and nothing else.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        return dict(sources)
    lora = _read_config(folder / ADAPTER_CONFIG)
    file = folder / _WEIGHTS
    if (folder / _PICKLED).is_file() and not file.is_file():
        raise CheckpointError(f"{folder / _PICKLED}: is pickled; convert it to safetensors.")
    tensors = _rename(model, read_header(file), key_mapping)
    pairs = {name: entry for name, entry in tensors.items() if _PAIR.match(name)}
    _check_names(file, model, sources, lora, tensors)
    merged = dict(sources)
    for name in tensors.keys() - pairs.keys():
        check_shape(name, tensors[name], sources[name].shape)
        (base,) = sources[name].parts
        merged[name] = replace(tensors[name], replaces=base)
    for module in sorted({_PAIR.match(name)["module"] for name in pairs}):
        if (base := sources.get(f"{module}.weight")) is None:
            continue  # a layer that no embedding depends on
        a, b = (pairs[f"{module}.lora_{side}.weight"] for side in "AB")
        rank = _of(module, lora.rank_pattern, lora.r)
        check_shape(f"{module}.lora_A", a, (rank, base.shape[1]))
        check_shape(f"{module}.lora_B", b, (base.shape[0], rank))
        alpha = _of(module, lora.alpha_pattern, lora.lora_alpha)
        scale = alpha / (math.sqrt(rank) if lora.use_rslora else rank)
        merged[f"{module}.weight"] = MergedTensor(base, a, b, scale)
    return merged


def _read_config(file: Path) -> LoraConfig:
    """The settings of a plain LoRA."""
    from peft import LoraConfig

    config = read_config(file.parent, file.name)
    for key, allowed in _ALLOWED.items():
        if config.get(key, allowed[0]) not in allowed:
            raise CheckpointError(
                f"{file}: {key} is {config[key]!r}; merged are {', '.join(map(str, allowed))}."
            )
    for key, value in config.items():
        if value and key not in _ALLOWED and key not in _READ | _OF_TRAINING:
            raise CheckpointError(f"{file}: {key} is {value!r}; only plain LoRA is merged.")
    try:
        lora = LoraConfig(**{key: value for key, value in config.items() if key in _READ})
        patterns = (*lora.rank_pattern.values(), *lora.alpha_pattern.values())
        if min(lora.r, lora.lora_alpha, *patterns) <= 0:
            raise ValueError("a rank or alpha is not above 0")
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: is not a LoRA configuration ({error}).") from error
    return lora


def _rename(
    model: PreTrainedModel, tensors: Mapping[str, TensorEntry], key_mapping: Mapping[str, str]
) -> dict[str, TensorEntry]:
    """The adapter's tensors under the names of the model's modules."""
    weights: dict[str, dict[str, TensorEntry]] = {}  # by the base's key, then by what follows
    for key, entry in tensors.items():
        if not key.startswith(_PREFIX):
            raise CheckpointError(f"{entry.file}: tensor {key!r} does not start with {_PREFIX!r}.")
        key = key.removeprefix(_PREFIX)
        pair = _PAIR.match(key)
        base, end = (f"{pair['module']}.weight", pair["end"]) if pair else (key, "")
        weights.setdefault(base, {})[end] = entry
    return {
        name.removesuffix(".weight") + end if end else name: entry
        for name, key in rename_keys(model, weights, key_mapping).items()
        for end, entry in weights[key].items()
    }


def _check_names(
    file: Path,
    model: PreTrainedModel,
    sources: Mapping[str, StoredTensor],
    lora: LoraConfig,
    found: Iterable[str],
) -> None:
    """Refuse an adapter that holds more or less than its configuration says."""
    import torch
    from peft.tuners.tuners_utils import check_target_module_exists

    saved = [rf"(^|\.){re.escape(name)}\." for name in lora.modules_to_save or ()]
    expected = {name for name in sources if any(re.search(pattern, name) for pattern in saved)}
    for name, module in model.named_modules():
        whole = f"{name}.weight" in expected or not isinstance(module, torch.nn.Linear)
        if not whole and check_target_module_exists(lora, name):
            expected |= {f"{name}.lora_{side}.weight" for side in "AB"}
    if extra := sorted(set(found) - expected):
        raise CheckpointError(
            f"{file}: {len(extra)} unexpected weights, first {extra[0]!r}; target_modules and "
            f"modules_to_save name no such linear layer of {type(model).__name__}."
        )
    if missing := sorted(expected - set(found)):
        raise CheckpointError(
            f"{file}: {len(missing)} missing weights, first {missing[0]!r}; target_modules or "
            "modules_to_save name its layer."
        )


def _of(module: str, pattern: Mapping[str, Any], default: Any) -> Any:
    """The module's own rank or alpha, found as peft finds it."""
    from peft.utils.other import get_pattern_key

    return pattern.get(get_pattern_key(pattern, module), default)


def _finite(entry: TensorEntry, values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise CheckpointError(f"{entry.file}: tensor {entry.key!r} holds NaN or infinite values.")
    return values
