"""Every export is run before it has its name: its own runtime against the checkpoint's own library.

The inputs come with the library: two queries, and two pages or passages of different shape, one by
one and together; a captioner reads the two pages. They show that a folder is what its checkpoint
is; how much a variant loses on real inputs, parity measures.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from colport.base.errors import ExportError, ParityError
from colport.base.files import atomic_path, final_place, scratch_folder
from colport.base.foreign import table_beside
from colport.base.library import onnxruntime
from colport.base.machine import available_mb
from colport.base.redaction import plain
from colport.families.base import Document, Family
from colport.families.reference.memory import ONCE_MB
from colport.folder import graphs, manifest
from colport.folder.manifest import Manifest
from colport.hub.checkpoints import reading
from colport.measure import captions, overflow, parity
from colport.measure.parity import Tolerance
from colport.pipeline import variants
from colport.quantize.widen import read
from colport.runtime.captioner import Captioner
from colport.runtime.encoder import Encoder
from colport.tensors import mapped
from colport.tensors.external_data import Layout

_TEXTS = table_beside(__file__)
QUERIES, PASSAGES = _TEXTS["queries"], _TEXTS["passages"]
_PAGES = ((224, 308), (420, 140))  # width and height in pixels
_BLOCK = 14
BATCH_SIZES = (1, 2)
_MAPPED_MB = 500
_HALF = ("fp16", "bf16")
_PROMPTS = (None, None)
_SHORT = {"max_new_tokens": 12}  # of a captioner's texts

_FIGURES = (
    *("kind", "inputs", "tokens", "max_abs_diff", "mean_cosine", "min_cosine"),
    *("largest_activation", "passed", "reason"),
)

Embeddings = Mapping[str, Sequence[np.ndarray]]
"""By kind; of a captioner what :func:`colport.measure.captions.standard` gives."""
Report = Callable[[str], None]


def documents(document_type: str) -> list[Document]:
    """Two pages of coloured blocks in different shapes, or two passages of different length."""
    if document_type == "passages":
        return list(PASSAGES)
    rng = np.random.default_rng(0)
    drawn = []
    for width, height in _PAGES:
        blocks = rng.integers(0, 256, (height // _BLOCK, width // _BLOCK, 3), dtype=np.uint8)
        page = Image.fromarray(blocks)
        drawn.append(page.resize((width, height), Image.Resampling.NEAREST))
    return drawn


@dataclass(frozen=True)
class Proof:
    """A check of one folder, to be given to what writes it.

    Attributes:
        standard: Gives the embeddings that the folder's are compared with; takes a place on the
            disk beside which it may write.
        record: What the manifest says of them.
        tolerance: What the folder may lose, as in a config; by default what the ready-made variant
            of its precision may.
        strict: Whether a folder that lost more is refused, or only described. One that cannot be
            run, or gives other shapes or no numbers, always is.
        report: Called with a line when it is done.
    """

    standard: Callable[[Path], Embeddings]
    record: Mapping[str, Any]
    tolerance: Mapping[str, float] | None
    strict: bool
    report: Report

    def __call__(self, folder: Path, found: Manifest) -> dict[str, Any]:
        """Run the folder and compare; what goes into ``check`` of its manifest.

        Raises:
            ExportError: Its own runtime cannot open or run it.
            ParityError: It lost more than it may, or would overflow in fp16.
            CheckpointError: The checkpoint's own library cannot run it.
        """
        standard = self.standard(folder)
        gc.collect()  # one model is in memory at a time
        limits = self._limits(found)
        with _named(folder), _running(folder, found, folder) as encoder:
            if found.task == "captioning":
                pages, given = documents("pages"), (standard, BATCH_SIZES, limits, {})
                measured = captions.measure(encoder, pages, _PROMPTS, *given, **_SHORT)["rows"]
            else:
                items = documents(encoder.document_type)
                scratch = folder.with_name("reach")
                reaches = overflow.reaches(folder, found, "cpu", QUERIES, items, scratch)
                measured = parity.measure(
                    encoder, QUERIES, items, standard, BATCH_SIZES, limits, {}, reaches
                )["rows"]
        rows = [{name: row[name] for name in _FIGURES} for row in measured]
        failed = [row for row in rows if not row["passed"]]
        against = self.record["against"]
        if refused := [row for row in failed if self.strict or row["min_cosine"] is None]:
            reasons = "; ".join(f"{row['kind']}: {row['reason']}" for row in refused)
            raise ParityError(
                f"{final_place(folder)}: is not written, since it does not give what its {against} "
                f"gives ({reasons})."
            )
        least = min(row["min_cosine"] for row in rows)
        self.report(f"checked against its {against}: least cosine {least:.6f}")
        return {
            "status": "failed" if failed else "passed",
            **self.record,
            **({"computed_in": "fp32"} if found.precision in _HALF else {}),
            "batch_sizes": list(BATCH_SIZES),
            "tolerance": limits.describe(),
            "rows": rows,
        }

    def _limits(self, found: Manifest) -> Tolerance:
        """What the folder may lose: anything where its ranges were measured on other inputs, since
        beyond them it is cut off. It has to give as many embeddings, of finite numbers."""
        if found.quantization.get("settings", {}).get("method") == "static":
            return Tolerance()
        return Tolerance(**(self.tolerance or variants.tolerance(found.precision)))


def reference(checkpoint: Path, family: Family, memory_mb: float | None = None) -> Embeddings:
    """The built-in inputs' embeddings by the checkpoint's own library.

    Args:
        checkpoint: A resolved checkpoint folder.
        family: Its family.
        memory_mb: MB that it may take, of which :data:`~colport.families.reference.memory.ONCE_MB`
            are used at most; by default what is available.

    Raises:
        CheckpointError: The library cannot run it.
    """
    allowed = min(available_mb() if memory_mb is None else memory_mb, ONCE_MB)
    with reading(checkpoint, "its own library", "run"):
        original = family.reference(checkpoint, "cpu", allowed)
        if family.task == "captioning":
            return captions.standard(original, documents("pages"), _PROMPTS, **_SHORT)
        return parity.embeddings(original, QUERIES, documents(family.document_type))


def save(embeddings: Embeddings, file: Path) -> None:
    """Keep embeddings for the other exports of a checkpoint."""
    named = {f"{kind}.{i}": row for kind, rows in embeddings.items() for i, row in enumerate(rows)}
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **named)


def load(file: Path) -> Embeddings:
    """What :func:`save` kept."""
    found: dict[str, list[np.ndarray]] = {}
    with np.load(file, allow_pickle=False) as kept:
        for name in kept.files:
            found.setdefault(name.partition(".")[0], []).append(kept[name])
    return found


def by_checkpoint(
    embeddings: Callable[[], Embeddings],
    tolerance: Mapping[str, float] | None = None,
    report: Report = lambda message: None,
) -> Proof:
    """A check against the checkpoint in its own library.

    Args:
        embeddings: Gives :func:`reference` of the checkpoint; called once the folder is there.
        tolerance: See :class:`Proof`.
        report: See :class:`Proof`.
    """
    return Proof(lambda _: embeddings(), {"against": "checkpoint"}, tolerance, True, report)


def by_base(
    base: Path,
    tolerance: Mapping[str, float] | None = None,
    report: Report = lambda message: None,
    *,
    strict: bool = True,
) -> Proof:
    """A check against the float folder that a quantized one is made from; needs no torch.

    Args:
        base: An exported float folder.
        tolerance: See :class:`Proof`.
        report: See :class:`Proof`.
        strict: See :class:`Proof`.
    """
    found = manifest.read(base)

    def standard(beside: Path) -> Embeddings:
        with _running(base, found, beside) as encoder:
            if found.task == "captioning":
                return captions.standard(encoder, documents("pages"), _PROMPTS, **_SHORT)
            return parity.embeddings(encoder, QUERIES, documents(encoder.document_type))

    record = {"against": "base", "base": found.check.get("status", "not recorded")}
    return Proof(standard, record, tolerance, strict, report)


@contextmanager
def _running(folder: Path, found: Manifest, beside: Path) -> Iterator[Encoder | Captioner]:
    """What runs the folder, on the CPU; its weights stay in the mapped file, however large.

    ONNX Runtime's CPU computes fp16 in fp32, from a copy of all weights in memory, and has no
    kernels for bf16. So graphs of either are opened, and their copies in fp32 are run, from a
    folder beside another one.
    """
    if found.precision not in _HALF:
        runtime = Captioner if found.task == "captioning" else Encoder
        encoder = runtime(folder, share_weights=True)
        with mapped.few_resident(folder, _MAPPED_MB):
            yield encoder
        return
    for graph in found.graphs.values():
        _open(folder / graph.file)
    with scratch_folder(beside.with_name("fp32")) as wide:
        graphs.copy_companions(folder, wide, found)
        widened = replace(found, precision="fp32")
        widened = graphs.write(read(folder, found), wide, widened, Layout())
        with _running(wide, widened, wide) as encoder:
            yield encoder


def _open(file: Path) -> None:
    """Let ONNX Runtime read a graph as it is; that it has no kernels for one is no fault of it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's classes share no public base
        if "NOT_IMPLEMENTED" not in str(error):
            raise


@contextmanager
def _named(folder: Path) -> Iterator[None]:
    """Whatever the runtime raises, as one sentence on the folder under its final name."""
    try:
        yield
    except OSError:  # of the disk, which the writer of the folder explains
        raise
    except Exception as error:
        reason = plain(error).replace(str(folder), str(final_place(folder)))
        raise ExportError(
            f"{final_place(folder)}: is not written, since its own runtime cannot run it: {reason}."
        ) from error
