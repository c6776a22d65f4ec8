"""An exported folder with its sessions: what an encoder and a captioner have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from colport.base.errors import ArtifactError, ConfigError, InputError
from colport.base.redaction import plain
from colport.families import inputs, registry
from colport.families.base import Task
from colport.folder import manifest
from colport.hub import exported
from colport.providers import ProviderSettings
from colport.providers.graph import Graph
from colport.providers.integers import needs_exact_kernels
from colport.providers.session import open_session, require, require_opset
from colport.providers.table import MOST_THREADS

_RUNTIMES: Mapping[Task, tuple[str, str]] = {
    "retrieval": ("a retriever", "Encoder"),
    "captioning": ("a captioner", "Captioner"),
}


class Opened:
    """An exported folder with a session a graph; see :class:`colport.runtime.encoder.Encoder`."""

    task: ClassVar[Task]
    needed: ClassVar[tuple[str, ...]] = ()
    """Graphs without which it does nothing."""

    def __init__(
        self,
        folder: Path | str,
        provider: str | Mapping[str, Any] = "cpu",
        threads: int | None = None,
        share_weights: bool = False,
        revision: str | None = None,
    ) -> None:
        threads = None if threads is None else inputs.whole("threads", threads, MOST_THREADS)
        inputs.typed("share_weights", share_weights, bool | np.bool_, "True or False")
        settings = ProviderSettings.of(provider)
        settings.refuse_other_python()
        inputs.typed("revision", revision, str | None, "a commit, tag or branch")
        place = inputs.typed("folder", folder, str | PathLike, "a path")
        self.folder = exported.located(place, revision)
        self.manifest = manifest.read(self.folder)
        self._family = registry.get(self.manifest.family)
        if self._family.task != self.task:
            (found, other), (_, own) = _RUNTIMES[self._family.task], _RUNTIMES[self.task]
            raise ArtifactError(
                f"{self.folder}: is {found}, which colport.{other} runs, and not colport.{own}."
            )
        if missing := [name for name in self.needed if name not in self.manifest.graphs]:
            raise ArtifactError(f"{self.folder / manifest.FILE}: has no {missing[0]} graph.")
        if self.task == "captioning" and settings.fixed_shapes:
            key = "cuda_graph" if settings.cuda_graph else "fixed_shapes"
            raise ConfigError(
                f"provider: {key}: a captioner's cache grows, and has no fixed shape."
            )
        require(settings.provider.name)
        require_opset(settings.provider, self.manifest.opset)
        exact = needs_exact_kernels(self.manifest.integer_range, settings.provider, self.folder)
        self._settings, self._threads = settings, threads
        self._options = {"share_weights": share_weights, "exact_sums": exact}
        self._graphs = self._open(threads)
        self._runtime = self._family.runtime(self.manifest.processing, self.folder)

    def _open(self, threads: int | None) -> dict[str, Graph]:
        settings, options = self._settings, {"threads": threads, **self._options}
        return {
            name: Graph(open_session(self.folder / graph.file, settings, **options), settings)
            for name, graph in self.manifest.graphs.items()
        }

    @contextmanager
    def _running(self, graph: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # onnxruntime's classes share no public base
            raise ArtifactError(
                f"{self.folder}: the {graph} graph cannot be run ({plain(error)})."
            ) from error

    @contextmanager
    def _preparing(self, places: Sequence[int]) -> Iterator[None]:
        """Errors of preprocessing as sentences, of inputs that lie at these places."""
        try:
            yield
        except InputError as error:
            raise InputError(error.argument, places[error.index or 0], error.reason) from error
        except (ArithmeticError, LookupError, MemoryError, ValueError) as error:
            reason = "out of memory" if isinstance(error, MemoryError) else plain(error)
            raise ArtifactError(
                f"{self.folder / manifest.FILE}: inputs cannot be prepared by its processing "
                f"settings ({reason})."
            ) from error
