"""LoRA adapters (Hu et al. 2021, arXiv:2106.09685), merged into the base as weights are read.

A folder with ``adapter_config.json`` beside a whole checkpoint is read as transformers reads it:
the base's weights with the adapter on top. ``W + scale * B @ A`` is computed in fp32, block by
block, when a weight is written; a merged copy of the model never exists.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from colport.base.errors import CheckpointError
from colport.families.reference.skeletons import check_shape, refuse_weights, rename_keys
from colport.hub import lora
from colport.hub.checkpoints import ADAPTER_CONFIG, read_config, reading
from colport.tensors.weights import ADAPTER_WEIGHTS, StoredTensor, TensorEntry, finite

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

_ADAPTER = "default"
_PREFIX = "base_model.model."
_PAIR = re.compile(r"^(?P<module>.+)(?P<end>\.lora_[AB]\.weight)$")
_BLOCK_BYTES = 2**24  # of fp32 rows merged at a time


@dataclass(frozen=True)
class MergedTensor(StoredTensor):
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

    @classmethod
    def of(cls, base: StoredTensor, *pair: Any) -> MergedTensor:
        """The sum of a base's tensor and ``a, b, scale``."""
        nbytes = 4 * math.prod(base.shape)
        return cls(base.file, base.key, np.dtype(np.float32), base.shape, nbytes, base, *pair)

    @property
    def parts(self) -> tuple[TensorEntry, ...]:
        """The base's tensor and the pair."""
        return (*self.base.parts, self.a, self.b)

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        """See :meth:`StoredTensor.read_rows`.

        Raises:
            CheckpointError: The adapter holds NaN or infinite values, or a file ended early.
        """
        a = finite(self.a, self.a.read().astype(np.float32, copy=False))
        b = finite(self.b, self.b.read_rows(start, stop).astype(np.float32, copy=False))
        b = b * np.float32(self.scale)
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
    known: Mapping[str, StoredTensor],
    key_mapping: Mapping[str, str],
) -> dict[str, StoredTensor]:
    """The base's weights with the folder's adapter; as they are where it has none.

    Args:
        folder: A checkpoint, with ``adapter_config.json`` and ``adapter_model.safetensors`` or not.
        model: The model on the meta device.
        known: Parameter name to its tensor in the base.
        key_mapping: Renamings of the model's library.

    Raises:
        CheckpointError: The adapter is pickled, damaged or more than a plain LoRA, or it does not
            hold what peft would put into this model by its configuration and nothing else.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        return dict(known)
    settings, stored = lora.read(folder / ADAPTER_CONFIG, read_config(folder, ADAPTER_CONFIG))
    file = folder / ADAPTER_WEIGHTS
    tensors = _rename(model, stored, key_mapping)
    scales, shapes = _expected(folder, model, settings)
    why = "; target_modules and modules_to_save, matched as peft does, give no such weight of "
    why += type(model).__name__
    refuse_weights("unexpected", tensors.keys() - shapes.keys(), file, why)
    why = "; target_modules or modules_to_save name its layer"
    refuse_weights("missing", shapes.keys() - tensors.keys(), file, why)
    merged = dict(known)
    for name in sorted(tensors):
        is_pair = _PAIR.match(name) is not None
        place = name.removesuffix(".weight") if is_pair else name
        check_shape(place, tensors[name], shapes[name])
        if not is_pair and name in known:  # the others: layers that no embedding depends on
            (base,) = known[name].parts
            merged[name] = replace(tensors[name], replaces=base)
    for module, scale in scales.items():
        if (base := known.get(f"{module}.weight")) is not None:
            a, b = (tensors[f"{module}.lora_{side}.weight"] for side in "AB")
            merged[f"{module}.weight"] = MergedTensor.of(base, a, b, scale)
    return merged


def _expected(
    folder: Path, model: PreTrainedModel, settings: LoraConfig
) -> tuple[dict[str, float], dict[str, tuple[int, ...]]]:
    """What peft puts into the model: factor of each pair by its layer, and shape of each tensor.

    Raises:
        CheckpointError: peft cannot, or it is more than pairs on linear layers and whole modules.
    """
    import torch
    from peft import get_peft_model_state_dict, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    file = folder / ADAPTER_CONFIG
    with reading(folder, "peft"):
        adapted = inject_adapter_in_model(
            copy.deepcopy(settings), copy.deepcopy(model), _ADAPTER, low_cpu_mem_usage=True
        )
        tensors = get_peft_model_state_dict(
            adapted, adapter_name=_ADAPTER, save_embedding_layers=False
        )
    scales = {}
    for name, module in adapted.named_modules():
        if isinstance(module, ModulesToSaveWrapper) and any(
            isinstance(inner, BaseTunerLayer) for inner in module.original_module.modules()
        ):
            raise CheckpointError(
                f"{file}: modules_to_save, by the ends of names, takes {name!r}, and so does "
                "target_modules for layers in it; peft does not merge these."
            )
        if isinstance(module, BaseTunerLayer):
            if not isinstance(base := module.get_base_layer(), torch.nn.Linear):
                raise CheckpointError(
                    f"{file}: target_modules takes {name!r}, a {type(base).__name__}; merged are "
                    "linear layers."
                )
            scales[name] = module.scaling[_ADAPTER]
    return scales, {name: tuple(tensor.shape) for name, tensor in tensors.items()}


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
