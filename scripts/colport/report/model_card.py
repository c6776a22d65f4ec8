"""The model card of an exported folder: what it is, what was measured, and what was not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from colport.base.errors import ArtifactError
from colport.base.files import read_json
from colport.base.machine import in_words
from colport.base.names import FULL, REFERENCE_VARIANT
from colport.families import registry
from colport.folder import manifest
from colport.folder.manifest import Manifest
from colport.providers import integers
from colport.report.formatting import listed
from colport.tables import COLUMNS

_TEMPLATE = Path(__file__).with_suffix(".md")
_PIPELINE_TAGS = {"pages": "visual-document-retrieval", "passages": "sentence-similarity"}
_HUB_SOURCE = re.compile(r"^([\w-][\w.-]*/[\w-][\w.-]*)@([0-9a-f]{40})\b")
_METRICS = ("ndcg_at_5", "ndcg_at_10", "recall_at_5", "mrr_at_10", "map")


@dataclass(frozen=True)
class Measured:
    """Records of what was measured on an exported folder; both may be empty.

    Attributes:
        parity: Records of :func:`colport.measure.parity.measure`.
        retrieval: Records of :func:`colport.scoring.record.retrieval_record`, PyTorch's too.
    """

    parity: Sequence[Mapping[str, Any]] = ()
    retrieval: Sequence[Mapping[str, Any]] = ()


def from_files(parity: Iterable[Path], retrieval: Iterable[Path], found: Manifest) -> Measured:
    """Records from single files.

    Args:
        parity: Records of parity.
        retrieval: Records of retrieval scores.
        found: Manifest of the exported folder that they should be of.

    Raises:
        ArtifactError: A file is no such record, or was measured on another export.
    """
    return Measured(
        [_record(file, "parity", found) for file in parity],
        [_record(file, "retrieval", found) for file in retrieval],
    )


def from_results(results: Path, model: str, variant: str, found: Manifest) -> Measured:
    """Records of one variant in the pipeline's results folder.

    Raises:
        ArtifactError: There are none, one is damaged, or the results are of another export.
    """
    exported = results / "models" / model / variant
    if exported.is_dir() and manifest.read(exported).digest != found.digest:
        raise ArtifactError(f"{exported}: is another export than the folder to push.")
    scores = results / "retrieval" / model
    measured = from_files(
        sorted((results / "parity" / model / variant).glob("*.json")),
        sorted([*scores.glob(f"{REFERENCE_VARIANT}/*.json"), *scores.glob(f"{variant}/*/*.json")]),
        found,
    )
    if not measured.parity and not _own(_rows(measured.retrieval)):
        raise ArtifactError(f"{results}: holds no records of model {model!r}, variant {variant!r}.")
    return measured


def write(found: Manifest, repo_id: str, measured: Measured) -> str:
    """The card, in Markdown with the Hub's metadata in front.

    Args:
        found: Manifest of the exported folder.
        repo_id: Where it will be.
        measured: What was measured on it.
    """
    parity, scores = _rows(measured.parity), _rows(measured.retrieval)
    retrieval = [row for row in scores if (row.get("embeddings") or FULL) == FULL]
    # Without judgements a row is ok and has no score.
    done = [row for row in retrieval if row["status"] == "ok" and row["ndcg_at_5"] is not None]
    agreed = [row for row in retrieval if row not in done and row.get("agreement") is not None]
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, finalize=_plain
    )
    environment.filters |= {"raw": Markup, "code": _code, "number": _number, "linked": _linked}
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        metadata=_metadata(found, repo_id, _own(done)),
        repo_id=repo_id,
        found=found,
        source=str(found.source.get("source") or "A checkpoint that is not recorded"),
        license=found.source.get("license", {}).get("license"),
        quantization=_listed(found.quantization.get("settings", {})),
        sums=integers.IN_WORDS.get(found.integer_range),
        made_with=_listed(found.made_with),
        largest=sorted(
            {
                f"{row['largest_activation']:.4g} ({row['kind']})"
                for row in parity
                if row.get("largest_activation") is not None
            }
        ),
        runtime=_runtimes(measured),
        pages=registry.get(found.family).document_type == "pages",
        parity=[row for row in parity if row["status"] != "unsupported"],
        parity_machines=_machines(measured.parity),
        retrieval=sorted(done, key=lambda row: row["dataset"]),
        scored=bool(_own(done)),
        agreed=sorted(agreed, key=lambda row: row["dataset"]),
        retrieval_machines=_machines(measured.retrieval),
        missed=sorted(
            {
                (row["provider"], row["reason"])
                for row in (*parity, *retrieval)
                if row["status"] == "unsupported"
            }
        ),
    )


def _record(file: Path, table: str, found: Manifest) -> Mapping[str, Any]:
    record = read_json(file)
    rows = record.get("rows")
    needed = set(COLUMNS[table])
    if not rows or not all(isinstance(row, dict) and needed <= row.keys() for row in rows):
        raise ArtifactError(f"{file}: is no record of {table}; its rows lack columns of the table.")
    if record.get("export", found.digest) != found.digest:
        raise ArtifactError(f"{file}: was measured on another export than the folder to push.")
    return record


def _rows(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for record in records for row in record["rows"]]


def _own(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if row["variant"] != REFERENCE_VARIANT]


def _metadata(found: Manifest, repo_id: str, scored: Sequence[Mapping[str, Any]]) -> str:
    """The YAML that the Hub reads; its fields are those of the Hub's model cards."""
    task = _PIPELINE_TAGS[registry.get(found.family).document_type]
    results = [
        EvalResult(
            task_type=task,
            dataset_type=row["dataset"],
            dataset_name=row["dataset"],
            metric_type=metric,
            metric_name=f"{metric}, {row['provider']}",
            metric_value=round(row[metric], 5),
        )
        for row in scored
        for metric in _METRICS
    ]
    source = _HUB_SOURCE.match(str(found.source.get("source")))
    # The Hub files a conversion to ONNX under its model's quantizations, whatever its precision.
    based = {"base_model": source[1], "base_model_relation": "quantized"} if source else {}
    kind = "single-vector" if found.is_single_vector else "late-interaction"
    data = ModelCardData(
        **found.source.get("license", {}),
        **based,
        library_name="onnx",
        pipeline_tag=task,
        tags=["onnx", "onnxruntime", "colport", kind, found.family, found.precision],
        model_name=repo_id.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _runtimes(measured: Measured) -> str:
    used = {
        f"{name} {version}"
        for record in (*measured.parity, *measured.retrieval)
        for name, version in record["environment"]["packages"].items()
        if name.startswith("onnxruntime")
    }
    return f"measured with {', '.join(sorted(used))}" if used else "not run"


def _machines(records: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(sorted({in_words(record["environment"]) for record in records}))


def _listed(settings: Mapping[str, Any]) -> str:
    """Settings in one line, empty ones left out."""
    named = {name: str(listed(value)) for name, value in settings.items() if value is not None}
    return "; ".join(f"{name} {value}" for name, value in named.items() if value)


def _code(value: str) -> str:
    return Markup("`" + re.sub(r"[`|\s]", " ", value) + "`")


def _linked(source: str) -> str:
    match = _HUB_SOURCE.match(source)
    return Markup(f"[{match[1]}](https://huggingface.co/{match[1]})") if match else source


def _plain(value: Any) -> str:
    """What the template prints: Markdown shows it as it is, in one cell of a table."""
    if hasattr(value, "__html__"):
        return value
    text = " ".join(str(value).split())
    return re.sub(r"[<&*\[\]`|\\]", lambda match: f"&#{ord(match[0])};", text)


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:z,.{digits}f}"
