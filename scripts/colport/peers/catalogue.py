"""Which peers there are, how each is asked to export, and what it cannot do. One table.

Versions are those of ``envs/peers/``; ``docs/peers.md`` says what was seen of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from colport.base.errors import ConfigError
from colport.base.names import PEER_PREFIX

FILE = "peer.json"
"""In a peer's folder: what it is, for the client that runs it; the peer wrote the other files."""

Program = tuple[str, ...]
"""A command line. ``{bin}`` stands for the programs of the peer's environment, ``{checkpoint}`` for
the checkpoint's folder, ``{output}`` for the folder to write, ``{base}`` for another peer's."""


@dataclass(frozen=True)
class PeerVariant:
    """One way of one peer to export a checkpoint.

    Attributes:
        name: Variant in the tables.
        peer: Name under ``run: peers``.
        programs: By what a model reads: programs that are run one after another.
        graphs: By what a model reads: graph name to file below the output.
        clients: By what a model reads: how the graphs are run, see :mod:`colport.peers.clients`.
        environment: Requirement set under ``envs/peers``; the pipeline's own where empty.
        base: Name of the variant whose folder it starts from, or empty.
        limits: Regular expressions: a peer that says so cannot do such a model; whatever else it
            says when it ends is a failure.
        tolerance: What parity allows, as for a variant.
    """

    name: str
    peer: str
    programs: Mapping[str, Sequence[Program]]
    graphs: Mapping[str, Mapping[str, str]]
    clients: Mapping[str, str]
    environment: str = ""
    base: str = ""
    limits: Sequence[str] = ()
    tolerance: Mapping[str, float] = field(default_factory=dict)


_FLOAT = {"max_abs_diff": 1.0e-4, "min_cosine": 0.99999}
_INTEGER = {"min_cosine": 0.85}
_TEXT = {"text": "text/model.onnx"}
_TWO = {**_TEXT, "image": "image/model.onnx"}
_KINDS = ("passages", "pages")
_PYLATE = ("{bin}/pylate-onnx-export", "{checkpoint}", "--force", "--output-dir", "{output}")
_CLIENTS = {"passages": "tokens", "pages": "processor"}
_OPTIMUM = ("{bin}/optimum-cli", "export", "onnx", "--model", "{checkpoint}")
_OPTIMUM_TASK = ("--task", "feature-extraction", "--library", "transformers")
_OPTIMUM_TEXT = (*_OPTIMUM, *_OPTIMUM_TASK)
_OPTIMUM_LIMITS = (
    r"Unrecognized configuration class",
    r"custom or unsupported architecture",
    r"only supported for the following tasks",
)


def _optimum_int8(graph: str) -> Program:
    folder = ("--onnx_model", f"{{output}}/float/{graph}", "-o", f"{{output}}/{graph}")
    options = ("--avx512_vnni", "--per_channel")
    return ("{bin}/optimum-cli", "onnxruntime", "quantize", *options, *folder)


def _optimum_pages(variant: str, graph: str) -> Program:
    return (*_OPTIMUM, *_OPTIMUM_TASK, "--variant", variant, f"{{output}}/{graph}")


def _torch_onnx(mode: str) -> PeerVariant:
    program = ("{bin}/python", "-P", "-m", "colport.peers.torch_onnx", mode)
    programs = ((*program, "{checkpoint}", "{output}"),)
    return PeerVariant(
        name=f"{PEER_PREFIX}torch-onnx-{mode}",
        peer="torch-onnx",
        programs=dict.fromkeys(_KINDS, programs),
        graphs={"passages": _TEXT, "pages": _TWO},
        clients=_CLIENTS,
        tolerance=_FLOAT,
    )


def _onnxruntime_tools(graph: str) -> Program:
    return (
        *("{bin}/python", "-m", "onnxruntime_tools.optimizer_cli", "--model_type", "bert"),
        "--disable_skip_layer_norm",  # its shape inference ends at operator sets from 13 on
        *("--input", f"{{base}}/{graph}/model.onnx", "--output", f"{{output}}/{graph}/model.onnx"),
    )


VARIANTS: Mapping[str, PeerVariant] = {
    variant.name: variant
    for variant in (
        PeerVariant(
            name=f"{PEER_PREFIX}optimum",
            peer="optimum",
            environment="optimum",
            programs={
                "passages": ((*_OPTIMUM_TEXT, "{output}/text"),),
                "pages": (_optimum_pages("text", "text"), _optimum_pages("vision", "image")),
            },
            graphs={"passages": _TEXT, "pages": _TWO},
            clients=_CLIENTS,
            limits=_OPTIMUM_LIMITS,
            tolerance=_FLOAT,
        ),
        PeerVariant(
            name=f"{PEER_PREFIX}optimum-int8",
            peer="optimum",
            environment="optimum",
            programs={
                "passages": ((*_OPTIMUM_TEXT, "{output}/float/text"), _optimum_int8("text")),
                "pages": (
                    _optimum_pages("text", "float/text"),
                    _optimum_pages("vision", "float/image"),
                    _optimum_int8("text"),
                    _optimum_int8("image"),
                ),
            },
            graphs={
                "passages": {"text": "text/model_quantized.onnx"},
                "pages": {
                    "text": "text/model_quantized.onnx",
                    "image": "image/model_quantized.onnx",
                },
            },
            clients=_CLIENTS,
            limits=_OPTIMUM_LIMITS,
            tolerance=_INTEGER,
        ),
        *(
            PeerVariant(
                name=f"{PEER_PREFIX}pylate-onnx-export{suffix}",
                peer="pylate-onnx-export",
                environment="pylate-onnx-export",
                programs=dict.fromkeys(_KINDS, ((*_PYLATE, *options),)),
                graphs={kind: {"text": file} for kind in _KINDS},
                clients=dict.fromkeys(_KINDS, "pylate"),
                limits=(
                    r"Unrecognized configuration class",
                    r"No module named 'sentence_transformers\.base'",
                ),
                tolerance=tolerance,
            )
            for suffix, options, file, tolerance in (
                ("", (), "model.onnx", _FLOAT),
                ("-int8", ("--quantize",), "model_int8.onnx", _INTEGER),
            )
        ),
        _torch_onnx("torchscript"),
        _torch_onnx("dynamo"),
        PeerVariant(
            name=f"{PEER_PREFIX}onnxruntime-tools",
            peer="onnxruntime-tools",
            environment="onnxruntime-tools",
            base=f"{PEER_PREFIX}torch-onnx-torchscript",
            programs={
                "passages": (_onnxruntime_tools("text"),),
                "pages": (_onnxruntime_tools("text"), _onnxruntime_tools("image")),
            },
            graphs={"passages": _TEXT, "pages": _TWO},
            clients=_CLIENTS,
            tolerance=_FLOAT,
        ),
    )
}
"""Every peer variant by its name."""

PEERS = tuple(dict.fromkeys(variant.peer for variant in VARIANTS.values()))
"""Names that ``run: peers`` allows."""


def of(peers: Sequence[str]) -> list[str]:
    """Names of the variants of these peers."""
    return [name for name, variant in VARIANTS.items() if variant.peer in peers]


def get(name: str) -> PeerVariant:
    """The peer variant of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in VARIANTS:
        raise ConfigError(f"peer: {name!r} is unknown; allowed are {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def is_folder(folder: Path | str) -> bool:
    """Whether a peer wrote the folder."""
    return (Path(folder) / FILE).is_file()
