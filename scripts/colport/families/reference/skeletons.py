"""Models on the meta device, and the map from their parameters to a checkpoint's tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colport.base.errors import CheckpointError, UnsupportedError
from colport.base.redaction import plain
from colport.hub.checkpoints import read_config
from colport.tensors.weights import StoredTensor, TensorEntry, TensorIndex

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Precisions that a graph can be traced in, and torch's names of them."""

COMPUTED: Mapping[str, str] = {
    r"(^|\.)(position_ids|inv_freq|original_inv_freq|embed_scale)$": "computed, not read",
    r"\.relative_position_index$": "computed, not read",
}
"""Buffers that libraries stored although they are computed, and why no graph needs to read them."""

_NONE: Mapping[str, str] = {}


def torch_dtype(precision: str) -> torch.dtype:
    """One of :data:`PRECISIONS` as a torch dtype."""
    import torch

    return getattr(torch, PRECISIONS[precision])


def is_said_quantized(folder: Path) -> bool:
    """Whether ``config.json`` has a ``quantization_config`` although the tensors are plain floats.

    Training on a quantized base leaves it in merged checkpoints; libraries would quantize again.

    Raises:
        CheckpointError: It is true: tensors are packed integers.
    """
    config = read_config(folder)
    said = [part.get("quantization_config") for part in _parts(config)]
    if not any(said):
        return False
    for entry in TensorIndex(folder).values():
        if _is_packed(entry, entry.key):
            method = next(filter(None, said))
            name = method.get("quant_method") if isinstance(method, dict) else method
            raise CheckpointError(
                f"{folder / 'config.json'}: quantization_config is {name!r}, and tensor "
                f"{entry.key!r} is {entry.dtype}; exported are weights in fp32, fp16 or bf16."
            )
    return True


def unquantized(config: Any) -> Any:
    """A transformers configuration without ``quantization_config``, its own and its parts'."""
    config.__dict__.pop("quantization_config", None)
    for name in config.sub_configs:
        if (part := getattr(config, name, None)) is not None:
            unquantized(part)
    return config


def _parts(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A configuration and those of the models in it."""
    inner = [part for value in config.values() if isinstance(value, dict) for part in _parts(value)]
    return [config, *inner]


def _is_packed(entry: StoredTensor, name: str) -> bool:
    """Whether what should be a weight of that name is stored as integers."""
    return entry.dtype.kind in "iub" and not reason(COMPUTED, name)


def build_on_meta(
    model_class: Any, config: Any, precision: str, attends: Any = "colport"
) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """A transformers model without weights, and the values of its computed buffers.

    Parameters never exist: they go to the meta device as they are made. Buffers that the
    checkpoint does not store are computed first and returned. A model to trace ``attends`` by our
    attention, by default; with ``None`` it does as its library chooses.

    Raises:
        CheckpointError: The library cannot build it so.
    """
    from accelerate import init_empty_weights

    from colport.families import attention

    attention.register()
    chosen = {"attn_implementation": attends} if attends else {}
    try:
        with init_empty_weights():
            model = model_class._from_config(config, dtype=torch_dtype(precision), **chosen)
    except Exception as error:
        raise CheckpointError(
            f"backbone {config.model_type}: {model_class.__name__} cannot be built for an export "
            f"({type(error).__name__}: {plain(error)})."
        ) from error
    model.eval()
    stored = set(model.state_dict())
    constants = {
        name: buffer.clone() for name, buffer in model.named_buffers() if name not in stored
    }
    return model.to("meta"), constants


def map_tensors(
    model: PreTrainedModel,
    tensors: Mapping[str, TensorEntry],
    *,
    key_mapping: Mapping[str, str] | None = None,
    optional: Mapping[str, str] = _NONE,
    ignored: Mapping[str, str] = _NONE,
    folder: Path,
) -> dict[str, StoredTensor]:
    """Each parameter's tensor in the checkpoint, under transformers' own renaming rules.

    Args:
        model: The model on the meta device.
        tensors: The checkpoint's tensors.
        key_mapping: Renamings of the model's library, applied first.
        optional: Patterns of parameters that no graph reads, which a checkpoint may lack.
        ignored: Patterns of checkpoint keys that belong to other heads.
        folder: The checkpoint, for messages.

    Raises:
        CheckpointError: A parameter has no tensor, a tensor has no parameter, or shapes differ.
    """
    keys = [key for key in tensors if not reason(ignored, key)]
    renamed = rename_keys(model, keys, key_mapping)
    parameters = model.state_dict()
    unexpected = sorted(
        key
        for name, key in renamed.items()
        if name not in parameters and not reason(COMPUTED, name)
    )
    place = tensors[unexpected[0]].file if unexpected else folder
    why = f"; {type(model).__name__} has no such parameter"
    refuse_weights("unexpected", unexpected, place, why)
    owners: dict[str, list[str]] = {}
    for name, key in renamed.items():
        owners.setdefault(key, []).append(name)
    places: dict[str, StoredTensor] = {
        name: tensors[key].part(number, len(names))
        for key, names in owners.items()
        for number, name in enumerate(names)
        if name in parameters
    }
    for pair in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        stored = [name for name in pair if name in places]
        places |= {name: places[stored[0]] for name in pair if stored and name not in places}
    missing = (n for n in parameters if n not in places and not reason(optional, n))
    refuse_weights("missing", missing, folder)
    for name, entry in places.items():
        check_shape(name, entry, tuple(parameters[name].shape))
    return places


def reason(patterns: Mapping[str, str], *names: str) -> str:
    """What the first pattern that is found in one of the names stands for; empty if none is."""
    found = (why for end, why in patterns.items() if any(re.search(end, name) for name in names))
    return next(found, "")


def refuse_weights(what: str, names: Iterable[str], place: Path, why: str = "") -> None:
    """Refuse weights that are ``missing`` or ``unexpected``, if there are any.

    Args:
        what: Which of the two.
        names: Their names.
        place: Where they should lie, or do.
        why: Ends the sentence.

    Raises:
        CheckpointError: There are; it names the first one.
    """
    if found := sorted(names):
        raise CheckpointError(f"{place}: {len(found)} {what} weights, first {found[0]!r}{why}.")


def check_shape(name: str, entry: StoredTensor, expected: tuple[int, ...]) -> None:
    """Refuse a tensor that is not the parameter: of another shape, or of integers.

    Raises:
        CheckpointError: It is not.
    """
    if _is_packed(entry, name):
        raise CheckpointError(
            f"{entry.file}: tensor {entry.key!r} is {entry.dtype}; exported are weights in fp32, "
            "fp16 or bf16."
        )
    if entry.shape != expected:
        raise CheckpointError(
            f"{entry.file}: tensor {entry.key!r} has shape {list(entry.shape)}, "
            f"parameter {name!r} needs {list(expected)}."
        )


def rename_keys(
    model: PreTrainedModel, keys: Iterable[str], key_mapping: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Parameter name to checkpoint key, by the rules that ``from_pretrained`` applies.

    Several parameters with one key are equal parts of its rows, in order.

    Raises:
        CheckpointError: Two keys are one parameter.
        UnsupportedError: A key needs more than another name.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    rules = get_model_conversion_mapping(model, dict(key_mapping or {})) or []
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    parameters = model.state_dict()
    renamed: dict[str, str] = {}
    for key in keys:
        name, pattern = rename_source_key(
            key, renamings, converters, model.base_model_prefix, parameters
        )
        names = [name] if pattern is None else _of_rows(name, pattern, converters)
        if not names:
            raise UnsupportedError(
                f"backbone {model.config.model_type}: weight {key!r} is stored in another form "
                "than the model's, by a conversion of transformers that is not exported."
            )
        for name in names:
            if name in renamed:
                raise CheckpointError(f"weights {renamed[name]!r} and {key!r} are both {name!r}.")
            renamed[name] = key
    return renamed


def _of_rows(name: str, pattern: str, converters: Iterable[Any]) -> list[str]:
    """The parameters that are equal parts of a tensor's rows, in order; ``name`` is the first.

    Empty where the conversion with that pattern does anything else.
    """
    from transformers.core_model_loading import Chunk

    converter = next(rule for rule in converters if pattern in rule.source_patterns)
    (first, *_), targets = converter.target_patterns, converter.target_patterns
    operation, *more = converter.operations
    plain = type(operation) is Chunk and not (operation.dim or operation.num_shards_attribute)
    if more or not plain or len(converter.source_patterns) > 1 or "\\" in first:
        return []
    return [name.replace(first, target) for target in targets]
