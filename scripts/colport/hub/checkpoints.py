"""Checkpoints: a Hub id, a local folder or a folder inside a package, resolved to one folder.

An adapter is completed with its base, and an optional ``overlay`` folder adds or replaces files (a
projection, a prompt configuration) without touching the checkpoint itself; ``sha256`` pins single
files.
"""

from __future__ import annotations

import importlib.util
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from colport.base.errors import CheckpointError, ColPortError, HubError, read_of
from colport.base.files import atomic_folder, content_hash, read_json, sha256_file, visible_files
from colport.base.foreign import load_json, local
from colport.hub import downloads, lora
from colport.tensors.weights import ADAPTER_WEIGHTS, INDEX, WHOLE, TensorIndex, count

HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.metadata", "README.md")
"""Files fetched from a Hub repository: configuration, tokenizer, safetensors weights, card."""

_Fetch = Callable[..., Path]

_LICENSE_KEYS = ("license", "license_name", "license_link")

SOURCE_KEYS = ("source", "applied", "weights")
"""What an exported folder says of its checkpoint's record."""

ADAPTER_CONFIG = "adapter_config.json"
"""Marks a folder with an adapter, as peft writes it."""

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*")
_MODEL_FILE = re.compile(r"^config\.json$|^model.*\.safetensors(\.index\.json)?$")
_SMALL = {Path(pattern).suffix for pattern in HUB_FILES} - {".safetensors"}
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class _Layer:
    """A folder whose files are part of a checkpoint.

    Attributes:
        folder: Where they lie.
        source: One line that names it, empty for an overlay.
        takes: Which files are taken, by name.
        is_fetched: Whether it came from the Hub.
    """

    folder: Path
    source: str
    takes: Callable[[str], bool] = lambda name: True
    is_fetched: bool = False


def resolve(declaration: Mapping[str, Any], workspace: Path | str) -> Path:
    """Folder that holds the declared checkpoint.

    Args:
        declaration: Exactly one of ``hub`` (with ``revision``, a commit, tag or branch), ``path``
            (a folder) and ``package`` (an importable package; ``folder`` inside it); optional
            ``base`` (``hub`` and ``revision``, or ``path``: what an adapter was trained on, by
            default what ``adapter_config.json`` names), ``sha256`` (file to digest) and
            ``overlay`` (a folder).
        workspace: Where the folder of an adapter or an overlaid checkpoint is assembled from links.

    Raises:
        CheckpointError: The folder, package, revision, base or a file is not there, or a digest
            differs.
    """
    return _assembled(_layers(declaration), declaration, Path(workspace))


def look(declaration: Mapping[str, Any], workspace: Path | str) -> Path | None:
    """As :func:`resolve`, but nothing is fetched and no content of weights read.

    ``None`` for what is on the Hub, as an adapter's base may be, or in a package inside another
    one, which an import has to find.

    Raises:
        CheckpointError: A folder, package, base or file is not there, or the header of one with
            weights does not fit it.
    """
    if "hub" in declaration or "." in declaration.get("package", ""):
        return None
    checkpoint = _located(declaration)
    if _is_bare_adapter(checkpoint.folder):
        base = declaration.get("base") or _named_base(checkpoint)
        if look(base, Path(workspace) / "base") is None:
            return None
    folder = _assembled(_layers(declaration, reads=False), {}, Path(workspace))
    if not _weight_files(folder):
        TensorIndex(folder)  # says what there is instead
    return folder


def record(declaration: Mapping[str, Any], family: str, workspace: Path | str) -> dict[str, Any]:
    """Resolve a checkpoint and say what it is: ``folder``, ``family``, ``source``, ``weights``.

    ``source`` names the commit that a Hub id stands for, and an adapter's base; ``applied`` says
    what is laid on what. ``weights`` holds the SHA-256 of every safetensors file that is read, an
    adapter's base's included, and ``files`` a hash of all others, so that another checkpoint under
    the same name reruns what depends on it; ``parameters`` counts what the weights' files hold.

    Raises:
        CheckpointError: See :func:`resolve`; or a safetensors header does not fit its file.
    """
    layers = _layers(declaration)
    folder = _assembled(layers, declaration, Path(workspace))
    weights = _weight_files(folder)
    others = [file for file in visible_files(folder) if file.suffix in _SMALL]
    return {
        "folder": str(folder),
        "family": family,
        "source": " on ".join(layer.source for layer in reversed(layers) if layer.source),
        "applied": _applied(layers),
        "parameters": count(weights),
        "weights": {str(file.relative_to(folder)): sha256_file(file) for file in weights},
        "files": content_hash(others),
    }


def parameters(declaration: Mapping[str, Any]) -> int:
    """Parameters of a checkpoint that is on this machine; nothing is fetched.

    Raises:
        CheckpointError: It is not here, or has no weights.
    """
    layers = _layers(declaration, partial(downloads.fetch, is_cached=True))
    files = {file for layer in layers for file in _weight_files(layer.folder)}
    if not files:
        raise CheckpointError(f"checkpoint {layers[0].source}: has no weights.")
    return count(files)


def places(declaration: Mapping[str, Any]) -> list[Path]:
    """Folders of this machine behind a checkpoint, an overlay and a base, or behind a dataset.

    None for what comes from the Hub, whose commits do not change, and for what is not there.
    """
    keys = ("path", "documents_folder")
    found = [local(declaration[key]) for key in keys if key in declaration]
    if "package" in declaration:
        package, *inner = declaration["package"].split(".")
        spec = importlib.util.find_spec(package)  # of the outermost alone: it imports nothing
        inside = Path(*inner, declaration.get("folder", "."))
        found += [Path(root, inside) for root in (spec and spec.submodule_search_locations) or ()]
    base = declaration.get("base", {})
    if found and not base and _is_bare_adapter(found[0]):
        with suppress(CheckpointError):  # its job says so
            base = _named_base(_Layer(found[0], ""))
    found += [local(declaration["overlay"])] if "overlay" in declaration else []
    return [*filter(Path.is_dir, found), *(places(base) if base else ())]


def read_record(file: Path | str) -> dict[str, Any]:
    """The record that the checkpoint's job wrote, as jobs on other machines read it.

    Raises:
        CheckpointError: The checkpoint's folder is not on this machine.
        ArtifactError: There is no such record.
    """
    found = read_json(file)
    if not Path(found["folder"]).is_dir():
        raise CheckpointError(
            f"{file}: names the folder {found['folder']}, which is not on {socket.gethostname()}; "
            "the checkpoint has to lie where every machine of the run sees it (if it was moved or "
            "removed, remove this record to look for it again)."
        )
    return found


def license_of(folder: Path | str) -> dict[str, Any]:
    """``license`` with the licence that a checkpoint's model card states, else nothing."""
    from huggingface_hub.repocard import metadata_load
    from yaml import YAMLError

    try:
        metadata = metadata_load(str(Path(folder) / "README.md")) or {}
    except (OSError, ValueError, YAMLError, RecursionError):  # no card, or not the Hub's
        return {}
    # Names only: a few lines of YAML can stand for a list of any size.
    found = {key: metadata.get(key) for key in _LICENSE_KEYS}
    stated = {key: text for key, text in found.items() if text and isinstance(text, str)}
    return {"license": stated} if stated else {}


def read_config(folder: Path | str, name: str = "config.json") -> dict[str, Any]:
    """A JSON file of a checkpoint.

    Raises:
        CheckpointError: The file is missing or is not a JSON object.
    """
    file = Path(folder) / name
    with read_of(CheckpointError, file, "is not valid JSON ({})"):
        config = load_json(file)
    if not isinstance(config, dict):
        raise CheckpointError(f"{file}: holds {type(config).__name__}, expected a JSON object.")
    return config


@contextmanager
def reading(folder: Path, library: str, doing: str = "read") -> Iterator[None]:
    """Turn what a library says of a checkpoint's files into one sentence.

    Code that a checkpoint brings along is never executed; a library that asks for it says so at
    length.

    Raises:
        CheckpointError: The library raised anything; that it lacks a package or memory passes where
            it only reads.
    """
    passing = (ModuleNotFoundError, MemoryError) if doing == "read" else ()
    try:
        yield
    except (ColPortError, *passing):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # an interruption; the other is what tokenizers raises
        if "custom code" in str(error):
            for name in ("config.json", *_TOKENIZER_FILES[1:], "processor_config.json"):
                refuse_own_code(folder / name, error)
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{folder}: {library} cannot {doing} it ({reason}).") from error


def refuse_own_code(file: Path, error: BaseException | None = None) -> None:
    """Refuse a configuration whose ``auto_map`` names code of the checkpoint.

    Args:
        file: The configuration; it may be missing.
        error: What a library said of it.

    Raises:
        CheckpointError: It does; the first class is named.
    """
    if code := own_code(file):
        raise CheckpointError(
            f"{file}: auto_map names code of the checkpoint ({code}), which is never executed; "
            "export a checkpoint whose classes its library has itself."
        ) from error


def own_code(file: Path) -> str:
    """The first class that ``auto_map`` of a configuration names, if there is one."""
    found = read_config(file.parent, file.name).get("auto_map") if file.is_file() else None
    first = next(iter(found.values()), None) if isinstance(found, dict) else None
    return str(first[0] if isinstance(first, list) and first else first or "")


def _layers(
    declaration: Mapping[str, Any], fetch: _Fetch | None = None, reads: bool = True
) -> list[_Layer]:
    """The folders of a checkpoint, the lowest first; an adapter is read before its base."""
    checkpoint = _located(declaration, fetch)
    layers = [*_base(checkpoint, declaration.get("base"), fetch, reads), checkpoint]
    if overlay := declaration.get("overlay"):
        if not local(overlay).is_dir():
            raise CheckpointError(f"checkpoint overlay {overlay!r}: there is no such folder.")
        layers.append(_Layer(local(overlay), ""))
    return layers


def _applied(layers: Sequence[_Layer]) -> list[str]:
    """What is laid on what, a sentence each."""
    said = []
    for layer in layers:
        file = layer.folder / ADAPTER_CONFIG
        if not file.is_file():
            continue
        settings, tensors = lora.read(file, read_config(layer.folder, ADAPTER_CONFIG))
        adapter = f"a LoRA of rank {settings.r} ({len(tensors)} tensors)"
        if _is_bare_adapter(layer.folder):
            said.append(f"{adapter} is added to the weights of its base.")
        else:
            said.append(
                f"{adapter} is added to the weights beside it, as in transformers; if it was "
                f"merged into them, it counts twice: take {ADAPTER_CONFIG} out of the folder."
            )
    return said


def _weight_files(folder: Path) -> list[Path]:
    """Safetensors files that are read, of the folder and of those in it."""
    found = set()
    for file in visible_files(folder):
        if file.name == ADAPTER_WEIGHTS:
            found.add(file)
        elif file.name in (WHOLE, INDEX):
            found |= {entry.file for entry in TensorIndex(file.parent).values()}
    return sorted(found)


def _located(declaration: Mapping[str, Any], fetch: _Fetch | None = None) -> _Layer:
    if "hub" in declaration:
        hub, revision = declaration["hub"], declaration["revision"]
        try:
            folder = (fetch or downloads.fetch)(hub, revision, HUB_FILES)
        except HubError as error:
            raise CheckpointError(f"checkpoint {hub}@{revision}: {error}.") from error
        return _Layer(folder, f"{hub}@{folder.name}", is_fetched=True)
    if "package" in declaration:
        package, inside = declaration["package"], declaration.get("folder", ".")
        return _Layer(_from_package(package, inside), f"package {package}, folder {inside}")
    folder = local(declaration["path"])
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint path {str(folder)!r}: there is no such folder.")
    return _Layer(folder.resolve(), str(declaration["path"]))


def _base(
    checkpoint: _Layer, declared: Mapping[str, Any] | None, fetch: _Fetch | None, reads: bool
) -> list[_Layer]:
    """What an adapter needs to be a checkpoint; nothing for any other folder."""
    if not _is_bare_adapter(checkpoint.folder):
        if declared:
            raise CheckpointError(
                f"checkpoint {checkpoint.source}: base goes with adapters only; this one has "
                f"weights of its own or no {ADAPTER_CONFIG}."
            )
        return []
    declared, folder = declared or _named_base(checkpoint), checkpoint.folder
    if reads:
        lora.read(folder / ADAPTER_CONFIG, read_config(folder, ADAPTER_CONFIG))
    if (folder / "modules.json").is_file() and not any((folder / n).is_file() for n in _PROCESSORS):
        lora.refuse_on_text(folder / ADAPTER_CONFIG)
    base = _located(declared, fetch)
    if (base.folder / ADAPTER_CONFIG).is_file():
        what = "is an adapter itself" if _is_bare_adapter(base.folder) else "has an adapter, too"
        raise CheckpointError(f"checkpoint base {base.source}: {what}; merge it first.")
    # A tokenizer and a processor come from one place, else their files would mix.
    complete = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    takes = _MODEL_FILE.match if complete else base.takes
    return [_Layer(base.folder, base.source, lambda name: bool(takes(name)))]


def _is_bare_adapter(folder: Path) -> bool:
    has_weights = any((folder / name).exists() for name in (WHOLE, INDEX))
    return (folder / ADAPTER_CONFIG).is_file() and not has_weights


def _named_base(checkpoint: _Layer) -> dict[str, Any]:
    """Where ``adapter_config.json`` says that the base is: a local folder before a Hub id.

    An adapter from the Hub names a Hub id: it does not choose what of this machine is read.
    """
    adapter = checkpoint.folder
    config = read_config(adapter, ADAPTER_CONFIG)
    name = str(config.get("base_model_name_or_path") or "")
    folders = () if checkpoint.is_fetched else (adapter / name, Path(name))
    for folder in folders:
        if name and folder.is_dir():
            return {"path": str(folder)}
    if not HUB_ID.fullmatch(name):
        here = "no Hub id" if checkpoint.is_fetched else "no folder here and no Hub id"
        raise CheckpointError(
            f"{adapter / ADAPTER_CONFIG}: base_model_name_or_path is {name!r}, which is {here}; "
            "say where the base is."
        )
    revision = config.get("revision") or "main"
    if not isinstance(revision, str) or not _REVISION.fullmatch(revision):
        raise CheckpointError(
            f"{adapter / ADAPTER_CONFIG}: revision is {revision!r}; allowed is a commit, tag or "
            "branch."
        )
    return {"hub": name, "revision": revision}


def _assembled(layers: Sequence[_Layer], declaration: Mapping[str, Any], workspace: Path) -> Path:
    """One folder of all layers, its digests checked."""
    folder = layers[0].folder if len(layers) == 1 else _lay_over(layers, workspace)
    _check_digests(folder, declaration.get("sha256", {}))
    return folder


def _from_package(package: str, folder: str) -> Path:
    spec = importlib.util.find_spec(package)
    locations = list(spec.submodule_search_locations or []) if spec else []
    if not locations:
        raise CheckpointError(f"checkpoint package {package!r}: is not installed.")
    root = Path(locations[0]).resolve()
    inside = (root / folder).resolve()
    if not inside.is_relative_to(root) or not inside.is_dir():
        raise CheckpointError(f"checkpoint package {package!r}: has no folder {folder!r}.")
    return inside


def _lay_over(layers: Sequence[_Layer], workspace: Path) -> Path:
    with atomic_folder(workspace) as folder:
        for layer in layers:
            for file in visible_files(layer.folder):
                if not layer.takes(file.name):
                    continue
                link = folder / file.relative_to(layer.folder)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(file.resolve())
    return workspace.resolve()


def _check_digests(folder: Path, digests: Mapping[str, str]) -> None:
    for name, expected in digests.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file}: is missing; its sha256 is declared in the config.")
        if (found := sha256_file(file)) != expected:
            raise CheckpointError(f"{file}: sha256 is {found}, expected {expected}.")
