"""Which peers there are, how each is asked to export, and what it cannot do: ``catalogue.toml``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from colport.base.errors import chosen
from colport.base.foreign import table_beside

FILE = "peer.json"
"""In a peer's folder: what it is, for the client that runs it; the peer wrote the other files."""

Program = Sequence[str]
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


VARIANTS: Mapping[str, PeerVariant] = {
    name: PeerVariant(name, **written) for name, written in table_beside(__file__).items()
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
    return chosen("peer", name, VARIANTS)


def is_folder(folder: Path | str) -> bool:
    """Whether a peer wrote the folder."""
    return (Path(folder) / FILE).is_file()
