"""Who is timed: the checkpoint in PyTorch and its exported folders, on a dataset's inputs."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from colport.base import columns, machine
from colport.base.errors import UnsupportedError
from colport.base.files import bytes_below
from colport.base.names import CAPTION_KINDS, KINDS
from colport.families import registry
from colport.families.base import Embedder
from colport.families.reference.memory import Room
from colport.folder.manifest import parsed
from colport.folder.manifest import read as read_manifest
from colport.measure.caption_calls import CaptionCalls
from colport.peers.catalogue import is_folder
from colport.providers import ProviderSettings
from colport.providers.session import require_opset
from colport.runtime.remote import run_in, without_python
from colport.timing.settings import Contender, Inputs

PYTORCH: Mapping[str, Mapping[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "compile": {"compiled": True},
    "compile-bf16": {"precision": "bf16", "compiled": True},
}
"""Further ways to run PyTorch, by their names in ``latency.pytorch``; rows are ``pytorch-{name}``.

They are timed beside the reference and shown in the latency table, and are no candidates to ship.
"""


def reference(
    checkpoint: str,
    family: str,
    device: str,
    threads: int,
    precision: str = "fp32",
    compiled: bool = False,
    memory_mb: float | None = None,
    tokens: int | None = None,
) -> Embedder | CaptionCalls:
    """The checkpoint in its original library on a torch device.

    Args:
        checkpoint: Its folder.
        family: Its family.
        device: ``cpu`` or ``cuda``.
        threads: PyTorch's threads.
        precision: ``fp32``, or ``bf16`` for weights and activations.
        compiled: Run the model's forward through ``torch.compile`` with dynamic shapes; it is
            compiled in the first calls, without caches of earlier runs.
        memory_mb: See :meth:`colport.families.base.Family.reference`.
        tokens: Tokens of each caption of a captioner.

    Raises:
        UnsupportedError: ``torch.compile`` has no compiler here, or too little memory.
    """
    if compiled:
        _prepare_compiling()
    import torch

    torch.set_num_threads(threads)
    embedder = registry.get(family).reference(Path(checkpoint), device, memory_mb)
    if compiled and embedder.room.is_streamed:
        raise UnsupportedError(f"torch.compile needs a model in memory; {embedder.room.note}.")
    if precision != "fp32":
        embedder.module.to(getattr(torch, {"bf16": "bfloat16"}[precision]))
    if compiled:
        embedder.module.compile(dynamic=True)
    return embedder if tokens is None else CaptionCalls(embedder, tokens)


def _prepare_compiling() -> None:
    """Look for the compiler that PyTorch's inductor calls, and give it an empty cache."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        raise UnsupportedError(
            f"torch.compile needs a C++ compiler; {compiler!r} is not on this machine."
        )
    folder = tempfile.mkdtemp(prefix="colport-compile-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
    # A pool of compiling processes would stay beside the contender.
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"


@dataclass(frozen=True)
class Contest:
    """PyTorch and every variant of a model on one provider, whatever they are timed on.

    Attributes:
        model: Name of the model.
        provider: Name of the provider.
        resolved: Record of :func:`colport.hub.checkpoints.record`; ``None`` without PyTorch.
        folders: Variant to exported folder.
        dataset: Reads the dataset whose first queries and documents are the inputs; not called
            where nothing can run.
        scratch: Folder for the pages of the inputs.
        entry: The provider's entry in the config, with its ``type``.
        memory_mb: MB that each PyTorch may take; by default a share of what the machine has beside
            the variants, which are all in memory meanwhile.
    """

    model: str
    provider: str
    resolved: Mapping[str, Any] | None
    folders: Mapping[str, str]
    dataset: Callable[[], Any]
    scratch: str | Path
    entry: Mapping[str, Any]
    memory_mb: float | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is timed: by the family of the checkpoint's record, or of the exported folders."""
        named = self.resolved or next(
            (
                {"family": parsed(place).family}
                for place in self.folders.values()
                if not is_folder(place)
            ),
            None,
        )
        is_captioner = named and registry.get(named["family"]).task == "captioning"
        return CAPTION_KINDS if is_captioner else KINDS

    def run(
        self,
        measure: Callable[[Sequence[Contender], Inputs], dict[str, Any]],
        table: str,
        cases: Iterable[Mapping[str, Any]],
        *,
        count: int,
        threads: int,
        pytorch: Iterable[str] = (),
        tokens: int | None = None,
    ) -> dict[str, Any]:
        """Time everyone who can run in one interleaved run.

        Args:
            measure: From contenders and inputs to a record with ``rows``.
            table: Name of the table that its rows are of.
            cases: What each row of a variant that a known limit prevents is about.
            count: So many first queries and documents are the inputs.
            threads: Threads of each contender.
            pytorch: As of :meth:`entrants`.
            tokens: As of :meth:`entrants`.

        Returns:
            The stage's record, noise marked.
        """
        everyone, missing = self.entrants(threads, pytorch, tokens)
        rows = [
            columns.row(table, **place, **case, status=limit.status, reason=str(limit))
            for variant, limit in missing.items()
            for place in [{"model": self.model, "variant": variant, "provider": self.provider}]
            for case in cases
        ]
        if not everyone:
            return {"rows": rows, "environment": machine.describe()}
        given = inputs(self.dataset(), count, Path(self.scratch))
        record = measure(everyone, replace(given, timed=self.kinds))
        mark_noise(record)
        record["environment"]["provider_packages"] = {
            provider: run_in(python, "colport.base.machine:packages")
            for provider, python in {(one.provider, one.python) for one in everyone}
            if python is not None
        }
        return {**record, "rows": [*record["rows"], *rows]}

    def entrants(
        self, threads: int, pytorch: Iterable[str] = (), tokens: int | None = None
    ) -> tuple[list[Contender], dict[str, UnsupportedError]]:
        """PyTorch and the variants that can run here, and why the others cannot.

        Args:
            threads: Threads of each contender.
            pytorch: Names of :data:`PYTORCH`: further ways to run PyTorch, beside the reference.
            tokens: Tokens of each caption of a captioner.

        Returns:
            The contenders, none where no variant can run, and the known limit by variant.
        """
        settings = ProviderSettings.from_config(self.provider, self.entry)
        own = without_python(self.entry)
        captions = {} if tokens is None else {"tokens": tokens}
        runnable, missing = [], {}
        try:
            run_in(settings.python, "colport.providers.session:require", settings.provider.name)
        except UnsupportedError as limit:
            return [], dict.fromkeys(self.folders, limit)
        for variant, folder in self.folders.items():
            try:
                if is_own := not is_folder(folder):
                    require_opset(settings.provider, read_manifest(folder).opset)
                place = str(Path(folder).resolve())
                arguments = {"folder": place, "provider": own, "threads": threads, **captions}
                factory, python = "colport.measure.embedders:load", settings.python
                identity = (self.model, variant, self.provider, factory, arguments)
                runnable.append(Contender(*identity, (place,), python, forms_batches=is_own))
            except UnsupportedError as limit:
                missing[variant] = limit
        if not runnable or self.resolved is None:
            return runnable, missing
        forms = {"pytorch": {}, **{f"pytorch-{name}": PYTORCH[name] for name in pytorch}}
        memory_mb = self.memory_mb
        if memory_mb is None:
            weights = sum(map(bytes_below, self.folders.values())) / 1e6
            memory_mb = max(0.0, machine.available_mb() - weights) / len(forms)
        room = Room.of(Path(self.resolved["folder"]), memory_mb)
        device, place = settings.provider.torch_device, self.resolved["folder"]
        given = {"checkpoint": place, "family": self.resolved["family"], "device": device}
        given |= {"threads": threads, "memory_mb": room.allowed_mb, **captions}
        provider, factory = f"torch-{device}", f"{__name__}:reference"
        references = [
            Contender(
                *(self.model, name, provider, factory, {**given, **further}),
                files=(str(place),),
                note=room.note,
            )
            for name, further in forms.items()
        ]
        return [*references, *runnable], missing


def mark_noise(record: Mapping[str, Any]) -> None:
    """Say on each measured row that others used the machine meanwhile."""
    if record["noise"]["noisy"]:
        note = f"noisy machine: {'; '.join(record['noise']['reasons'])}"
        for row in record["rows"]:
            if row["status"] == "ok":
                row["reason"] = "; ".join(filter(None, (row["reason"], note)))


def inputs(dataset: Any, count: int, scratch: Path) -> Inputs:
    """The first ``count`` queries and documents of a dataset; pages are written as files."""
    documents = dataset.documents[:count]
    pages = bool(documents) and not isinstance(documents[0], str)
    if pages:
        files = [scratch / f"page-{index}.png" for index in range(len(documents))]
        for page, file in zip(documents, files, strict=True):
            page.save(file)
        documents = [str(file) for file in files]
    return Inputs(tuple(dataset.queries[:count]), tuple(documents), pages)
