"""ColBERT checkpoints: which library saved one, and of which modules it is made.

Everything is checked before a library reads the folder: what would be left out of the graph, or
executed, is refused by name.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from colport.base.errors import CheckpointError, UnsupportedError, read_of
from colport.base.foreign import is_inside, load_json, table_beside
from colport.families.reference import skeletons
from colport.hub import lora
from colport.hub.checkpoints import ADAPTER_CONFIG, read_config, reading, refuse_own_code
from colport.tensors.weights import StoredTensor, TensorIndex

Library = Literal["sentence-transformers", "pylate", "stanford"]

MODULES, _CONFIG = "modules.json", "config_sentence_transformers.json"
_METADATA, _STANFORD = "artifact.metadata", "HF_ColBERT"
_DENSE = "sentence_transformers.base.modules.dense.Dense"
_ADOPTED = ("eurobert",)
"""Model types whose own code transformers took over; their checkpoints still name it."""
_TRACED = ("Transformer", "Dense", "Normalize", "MultiVectorMask")
_DEFAULTS: Mapping[Library, Mapping[str, Any]] = table_beside(__file__)


@dataclass(frozen=True)
class Module:
    """One entry of ``modules.json``: class name without its package, and folder."""

    name: str
    folder: Path


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose modules can all be in a graph.

    Attributes:
        folder: The checkpoint.
        library: Whose layout it has.
        settings: ``config_sentence_transformers.json``, or Stanford's ``artifact.metadata``, over
            the library's defaults.
        modules: The backbone and what follows.
    """

    folder: Path
    library: Library
    settings: Mapping[str, Any]
    modules: tuple[Module, ...]

    @property
    def backbone(self) -> Path:
        """Folder of the transformer and its tokenizer."""
        return self.modules[0].folder


def is_checkpoint(folder: Path) -> bool:
    """Whether the folder has the files that one of the ColBERT layouts has."""
    return any((folder / name).is_file() for name in (MODULES, _METADATA))


def read(folder: Path) -> Checkpoint:
    """Say what a checkpoint is made of, from its small files alone.

    Raises:
        CheckpointError: It is of one vector a text, damaged, or pickled.
        UnsupportedError: It has a module that no graph would hold, or reads pages.
    """
    library: Library
    if (folder / MODULES).is_file():
        given = read_config(folder, _CONFIG)
        library, modules = _library(folder / _CONFIG, given), read_modules(folder)
    else:
        given = read_config(folder, _METADATA)
        library = "stanford"
        modules = (Module("Transformer", folder), Module("Dense", folder))
        if _STANFORD not in (read_config(folder).get("architectures") or []):
            raise CheckpointError(
                f"{folder / 'config.json'}: architectures lack {_STANFORD}, "
                f"which a checkpoint with {_METADATA} names."
            )
    named = {key: value for key, value in given.items() if value is not None}
    checkpoint = Checkpoint(folder, library, {**_DEFAULTS[library], **named}, modules)
    config = read_config(checkpoint.backbone)
    if config.get("model_type") not in _ADOPTED:  # transformers' class would read the weights
        refuse_own_code(checkpoint.backbone / "config.json")
    if sees(config):
        raise UnsupportedError(
            f"{checkpoint.backbone / 'config.json'}: is of a model that sees pages; one is read "
            "where this file lies in the checkpoint's own folder."
        )
    if (checkpoint.backbone / ADAPTER_CONFIG).is_file():
        lora.refuse_on_text(checkpoint.backbone / ADAPTER_CONFIG)
    for module in checkpoint.modules:
        if module.name in ("Transformer", "Dense"):
            TensorIndex(module.folder)  # refuses pickles, which the libraries would open
    return checkpoint


def sees(config: Mapping[str, Any]) -> bool:
    """Whether a model's configuration has a vision tower's inside, or a token for patches."""
    inner = (value for value in config.values() if isinstance(value, dict))
    return not {"vision_config", "image_token_id"}.isdisjoint(config) or any(map(sees, inner))


def _library(file: Path, settings: Mapping[str, Any]) -> Library:
    model_type = settings.get("model_type")
    if model_type == "ColBERT" or "query_prefix" in settings or "document_prefix" in settings:
        return "pylate"
    if model_type == "MultiVectorEncoder":
        return "sentence-transformers"
    if (head := file.with_name("colbert_linear.pt")).is_file():  # as bge-m3 has it
        raise CheckpointError(
            f"{head}: pickled weights are not read; a layout of ColBERT has them in safetensors."
        )
    raise CheckpointError(
        f"{file}: model_type is {model_type!r}, which gives one vector a text; "
        "allowed are MultiVectorEncoder and ColBERT."
    )


def read_modules(folder: Path) -> tuple[Module, ...]:
    """What ``modules.json`` names.

    Raises:
        CheckpointError: It is no list of modules, or one lies outside the folder.
        UnsupportedError: It has a module that no graph would hold.
    """
    file = folder / MODULES
    damaged = (ValueError, KeyError, TypeError)
    with read_of(CheckpointError, file, "is not a list of modules ({})", damaged):
        entries = load_json(file)
        declared = [(str(entry["type"]), str(entry["path"])) for entry in entries]
    modules = []
    for position, (reference, path) in enumerate(declared):
        package, name = reference.split(".")[0], reference.split(".")[-1]
        expected = ("Transformer",) if position == 0 else _TRACED[1:]
        if package not in ("sentence_transformers", "pylate") or name not in expected:
            raise UnsupportedError(
                f"{file}: module {position} ({path!r}) is {reference}; "
                f"exported there is {' or '.join(expected)}."
            )
        if path and not is_inside(folder, path):
            raise CheckpointError(
                f"{file}: module {position} lies outside the checkpoint: {path!r}."
            )
        modules.append(Module(name, folder / path))
    if not modules:
        raise CheckpointError(f"{file}: names no module.")
    return tuple(modules)


def load(checkpoint: Checkpoint, device: str) -> Any:
    """The checkpoint as ``MultiVectorEncoder`` in fp32; on ``meta`` its backbone has no weights.

    Raises:
        CheckpointError: sentence-transformers cannot read it.
        UnsupportedError: Its backbone is of a class that transformers does not have.
    """
    import torch
    import transformers
    from sentence_transformers import MultiVectorEncoder

    for name in read_config(checkpoint.backbone).get("architectures") or []:
        if name != _STANFORD and not hasattr(transformers, name):
            raise UnsupportedError(
                f"{checkpoint.backbone / 'config.json'}: architectures names {name}, which "
                "transformers does not have; what it would read instead may compute otherwise."
            )
    said_quantized = skeletons.is_said_quantized(checkpoint.backbone)
    on_meta = device == "meta"
    arguments = {"dtype": torch.float32, "use_safetensors": True}
    if on_meta:
        arguments["device_map"] = "meta"
    with reading(checkpoint.folder, "sentence-transformers"), _readable(checkpoint) as folder:
        return MultiVectorEncoder(
            str(folder),
            device=None if on_meta else device,
            trust_remote_code=False,
            model_kwargs=arguments,
            config_kwargs={"quantization_config": None} if said_quantized else None,
        )


@contextmanager
def _readable(checkpoint: Checkpoint) -> Iterator[Path]:
    """The folder with PyLate's projection under sentence-transformers' name.

    ``MultiVectorEncoder`` knows the name that PyLate 1.2 and newer write, not the one before.
    """
    if checkpoint.library != "pylate":
        yield checkpoint.folder
        return
    with tempfile.TemporaryDirectory() as workspace:
        for entry in checkpoint.folder.iterdir():
            (Path(workspace) / entry.name).symlink_to(entry.resolve())
        modules = json.loads((checkpoint.folder / MODULES).read_text(encoding="utf-8"))
        for entry in modules:
            if entry["type"].startswith("pylate."):
                entry["type"] = _DENSE
        file = Path(workspace) / MODULES
        file.unlink()
        file.write_text(json.dumps(modules), encoding="utf-8")
        yield Path(workspace)


def head(checkpoint: Checkpoint, precision: str) -> tuple[Any, dict[str, StoredTensor]]:
    """What follows the backbone, on meta, but for the normalisation that ends every graph.

    Returns:
        The modules, and their parameters' places by parameter name.

    Raises:
        UnsupportedError: A module computes something that no graph would hold.
        CheckpointError: Weights are missing, unexpected or of another shape.
    """
    import torch
    from sentence_transformers.base.modules import Normalize

    layers, stored = torch.nn.ModuleList(), {}

    for module in checkpoint.modules[1:]:
        if module.name not in ("Dense", "Normalize"):
            continue
        folder, config = module.folder, read_config(module.folder)
        if module.name == "Normalize":
            _check_tokens(folder, config)
            layers.append(Normalize("token_embeddings"))
            continue
        tensors = TensorIndex(folder)
        if checkpoint.library == "stanford":
            tensors = {key: entry for key, entry in tensors.items() if key.startswith("linear.")}
            config = {"in_features": config.get("hidden_size"), "bias": False}
            config |= {"out_features": checkpoint.settings["dim"]}
            config |= {"activation_function": "torch.nn.Identity"}
        with torch.device("meta"):
            layer = _dense(folder, config)
        parameters = layer.state_dict()
        if set(parameters) != set(tensors):
            raise CheckpointError(
                f"{folder}: projection has weights {sorted(tensors)}, needs {sorted(parameters)}."
            )
        for name, entry in tensors.items():
            skeletons.check_shape(f"{folder.name}.{name}", entry, tuple(parameters[name].shape))
            stored[f"{len(layers)}.{name}"] = entry
        layers.append(layer.to(skeletons.torch_dtype(precision)))
    if checkpoint.library != "sentence-transformers":
        return layers, stored  # the other two normalise in their code
    if not layers or not isinstance(layers[-1], Normalize):
        raise UnsupportedError(
            f"{checkpoint.folder / MODULES}: does not end in Normalize; "
            "embeddings that are not of unit length are not exported."
        )
    return layers[:-1], stored


def _dense(folder: Path, config: Mapping[str, Any]) -> Any:
    """The projection that a module's ``config.json`` describes."""
    import torch
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.util import import_from_string

    file = folder / "config.json"
    config = {"module_input_name": "token_embeddings", **config}
    _check_tokens(folder, config)
    if unknown := sorted(set(config) - set(Dense.config_keys)):
        raise UnsupportedError(f"{file}: {unknown[0]!r} is a setting that Dense does not have.")
    reference = str(config.get("activation_function"))
    try:
        activation = import_from_string(reference) if reference.startswith("torch.") else None
    except ImportError:
        activation = None
    if not (isinstance(activation, type) and issubclass(activation, torch.nn.Module)):
        raise UnsupportedError(
            f"{file}: activation_function is {reference!r}; exported are modules of torch.nn."
        )
    with read_of(CheckpointError, file, "does not describe a projection ({})", TypeError):
        return Dense(**{**config, "activation_function": activation()})


def _check_tokens(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a module that reads or writes anything but token embeddings."""
    read_from = config.get("module_input_name")
    for key, value in (("input", read_from), ("output", config.get("module_output_name"))):
        if (value or read_from) != "token_embeddings":
            raise UnsupportedError(
                f"{folder / 'config.json'}: module_{key}_name is {value!r}; "
                "exported are modules on token_embeddings."
            )
