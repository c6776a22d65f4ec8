"""A LoRA adapter by its own two files, checked before anyone looks for its base.

``adapter_config.json`` and ``adapter_model.safetensors`` are those of peft (Hu et al. 2021,
arXiv:2106.09685).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from colport.base.errors import CheckpointError, UnsupportedError, read_of
from colport.tensors.weights import ADAPTER_WEIGHTS, TensorEntry, read_header

if TYPE_CHECKING:
    from peft import LoraConfig

_PICKLED = "adapter_model.bin"

_ALLOWED: Mapping[str, tuple[Any, ...]] = {"peft_type": ("LORA",), "bias": ("none",)}
_INITIALISATIONS = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""Those of peft 0.20 that leave the base's weights as they are; the others start from a part of
them, which they take out of the base whenever the adapter is loaded."""

_READ = {
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules"),
    *("exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
    "ensure_weight_tying",
}
_OF_TRAINING = {
    *("auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "inference_mode"),
    *("init_lora_weights", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_core"),
    *("peft_version", "qalora_group_size", "revision", "runtime_config", "task_type"),
}
"""Settings that change nothing once an adapter is trained; any not named here must be off."""


def refuse_on_text(file: Path) -> NoReturn:
    """Refuse an adapter of a text model, which no family merges."""
    raise UnsupportedError(
        f"{file}: adapters on a text backbone are not exported; merge it into the model first."
    )


def read(file: Path, config: Mapping[str, Any]) -> tuple[LoraConfig, Mapping[str, TensorEntry]]:
    """The settings of a plain LoRA, and the tensors beside them.

    Args:
        file: An ``adapter_config.json``.
        config: What it says.

    Raises:
        CheckpointError: It is more than a plain LoRA, changes its base otherwise, is damaged, or
            has no safetensors weights.
    """
    for key, allowed in _ALLOWED.items():
        if config.get(key, allowed[0]) not in allowed:
            raise CheckpointError(
                f"{file}: {key} is {config[key]!r}; merged are {', '.join(map(str, allowed))}."
            )
    start = config.get("init_lora_weights", True) or False
    if (start.lower() if isinstance(start, str) else start) not in _INITIALISATIONS:
        names = ", ".join(str(name).lower() for name in _INITIALISATIONS)
        raise CheckpointError(
            f"{file}: init_lora_weights is {start!r}; read are {names}, which leave the base's "
            "weights as they are. Merge the adapter with peft, or save it there as a plain LoRA "
            "(path_initial_model_for_weight_conversion)."
        )
    for key, value in config.items():
        if value and key not in _ALLOWED and key not in _READ | _OF_TRAINING:
            raise CheckpointError(f"{file}: {key} is {value!r}; only plain LoRA is merged.")
    from peft import LoraConfig

    damaged = (AttributeError, TypeError, ValueError)
    with read_of(CheckpointError, file, "is not a LoRA configuration ({})", damaged):
        lora = LoraConfig(**{key: value for key, value in config.items() if key in _READ})
        patterns = (*lora.rank_pattern.values(), *lora.alpha_pattern.values())
        if min(lora.r, lora.lora_alpha, *patterns) <= 0:
            raise ValueError("a rank or alpha is not above 0")
    weights, pickled = file.with_name(ADAPTER_WEIGHTS), file.with_name(_PICKLED)
    if pickled.is_file() and not weights.is_file():
        raise CheckpointError(f"{pickled}: is pickled; convert it to safetensors.")
    return lora, read_header(weights)
