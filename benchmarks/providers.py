"""``python -m benchmarks.providers``: the measuring protocol on one machine, in limited time.

Each model is exported once a variant. All that runs on one kind of device (PyTorch in fp32 and
bf16, and every provider entry with every variant) then takes turns in one ordinary latency run,
which also compares each contender's embeddings with those of PyTorch in fp32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.command import DEMO, SCRATCH, Demo, Scratch, publish, start, whole_numbers
from benchmarks.processes import run_alone
from benchmarks.provider_plan import ProviderPlan, entries, fitting
from benchmarks.provider_tables import markdown
from colport.base import machine
from colport.base.files import scratch_folder, write_text
from colport.base.names import KINDS
from colport.measure.entrants import Contest
from colport.processes.child import ChildError, ChildTimeoutError
from colport.providers import ProviderSettings
from colport.timing.runner import measure
from colport.timing.settings import Case, Contender, Inputs, LatencySettings
from colport.timing.statistics import make_row

_ROUNDS = 6  # fewer give no interval
_LEAST_SECONDS = 10.0  # with less left, nothing more is started
_BF16 = "pytorch-bf16"


def run(
    plan: ProviderPlan,
    files_from: Path,
    scratch: Path,
    report: Callable[[str], None],
    keep: Callable[[Mapping[str, Any]], None] = lambda record: None,
) -> dict[str, Any]:
    """Export, measure and remove, one model after the other.

    Args:
        plan: What.
        files_from: Folder with the demo checkpoints.
        scratch: Folder for checkpoints and exports, some 30 GB at 3 billion parameters.
        report: Called with a line for each step.
        keep: Called with the record so far after each model.

    Returns:
        ``rows`` (those of the latency run with ``speedup_vs_bf16`` and
        ``graph_speedup_vs_bf16``), ``not_run`` (``model``, ``what``, ``reason``), ``noise`` (one
        verdict a run), ``seconds``, ``limit_seconds``, ``started``, ``commit`` and
        ``environment``.
    """
    started = time.monotonic()
    deadline = started + plan.limit_seconds
    record: dict[str, Any] = {
        "rows": [],
        "not_run": [],
        "noise": [],
        "limit_seconds": plan.limit_seconds,
        "started": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": machine.commit() or "unknown (no git checkout)",
        "environment": machine.describe(),
    }
    models = [*([None] if plan.text else []), *plan.sizes]
    for index, size in enumerate(models):
        name = size or plan.text.resolve().name
        with scratch_folder(scratch / f"providers-{name}") as folder:
            job = _Model(name, plan, record, report, deadline, len(models) - index)
            job.run(None if size else plan.text, files_from, folder)
        record["seconds"] = time.monotonic() - started
        keep(record)
    return record


def main(
    providers: Annotated[
        str,
        typer.Option(
            help="Comma-separated types, or a YAML file with entries as under `providers` of a "
            "config. A GPU's type is measured plain, with I/O binding and with CUDA graphs."
        ),
    ] = "cuda,cpu",
    sizes: Annotated[
        str, typer.Option(help="Comma-separated sizes of `benchmarks.export`; empty for none.")
    ] = "colpali-100M,colqwen2-100M",
    text: Annotated[
        Path | None, typer.Option(help="Checkpoint folder of a text model, measured first.")
    ] = None,
    variants: Annotated[str, typer.Option(help="Comma-separated: fp32, fp16, bf16.")] = ",".join(
        ProviderPlan.precisions
    ),
    batch_sizes: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(
        map(str, ProviderPlan.batch_sizes)
    ),
    limit_seconds: Annotated[
        float, typer.Option(help="Seconds for everything; what does not fit is listed.")
    ] = ProviderPlan.limit_seconds,
    threads: Annotated[
        int | None, typer.Option(help="Threads of every contender.", show_default="all cores")
    ] = None,
    checkpoints_folder: Demo = DEMO,
    scratch: Scratch = SCRATCH,
    output: Annotated[
        Path | None, typer.Option(help="Markdown page to write, renewed after each model.")
    ] = None,
) -> None:
    """Measure providers on this machine beside PyTorch in fp32 and bf16: speed and parity.

    \b
    Example: python -m benchmarks.providers --providers cuda,cpu --sizes colpali-1B --output gpu.md
    """
    batches = whole_numbers("batch-sizes", batch_sizes)
    plan = ProviderPlan(
        sizes.split(",") if sizes else [],
        entries(providers, batches),
        text,
        variants.split(","),
        batches,
        limit_seconds,
        threads or machine.usable_cores(),
    )

    def keep(record: Mapping[str, Any]) -> None:
        if output:
            write_text(output, markdown(record))

    publish(markdown(run(plan, checkpoints_folder, scratch, typer.echo, keep)), output)


class _OutOfTime(Exception):  # noqa: N818 - ends a run, no error
    pass


@dataclass
class _Model:
    """One model on every provider; what it finds goes into ``record``."""

    name: str
    plan: ProviderPlan
    record: dict[str, Any]
    report: Callable[[str], None]
    deadline: float
    models_left: int

    def run(self, text: Path | None, files_from: Path, folder: Path) -> None:
        end = time.monotonic() + self._left() / self.models_left
        devices: dict[str, dict[str, Mapping[str, Any]]] = {}
        for name, entry in self.plan.providers.items():
            device = ProviderSettings.from_config(name, entry).provider.torch_device
            devices.setdefault(device, {})[name] = entry
        made = self._prepare(text, files_from, folder, list(devices))
        if made is None:
            return
        entrants = {device: self._entrants(made, named) for device, named in devices.items()}
        able = {device: everyone for device, everyone in entrants.items() if everyone}
        for place, (device, everyone) in enumerate(able.items()):
            seconds = (end - time.monotonic()) / (len(able) - place)
            self._measure(made, device, everyone, seconds)

    def _prepare(
        self, text: Path | None, files_from: Path, folder: Path, devices: Sequence[str]
    ) -> dict[str, Any] | None:
        left = self._left()
        if left < min(_LEAST_SECONDS, self.plan.limit_seconds / 2):
            self._skip("everything", "the time was used up before")
            return None
        self.report(f"{self.name}: exporting")
        given = (
            *(self.name, text and str(text), str(files_from), str(folder)),
            *(self.plan.precisions, devices, self.plan.threads),
        )
        try:
            made = run_alone("benchmarks.provider_checkpoint:prepare", *given, seconds=left)
        except ChildTimeoutError:
            self._skip("everything", f"checkpoint and exports took more than {left:.0f} s")
            return None
        except ChildError as error:
            self._skip("everything", f"the process that exports it {error}")
            return None
        for variant, reason in made["failed"].items():
            self._skip(variant, reason)
        return made

    def _measure(
        self,
        made: Mapping[str, Any],
        device: str,
        everyone: Sequence[Contender],
        seconds: float,
    ) -> None:
        count, probe = len(everyone), made["seconds"][device]
        call = probe.get("query", 0.0) + probe.get("document", 0.0)
        after_loads = seconds - count * probe.get("load", 0.0)
        sizes, spare = fitting(self.plan.batch_sizes, call, count, after_loads)
        if left_out := sorted(set(self.plan.batch_sizes) - set(sizes)):
            listed = ", ".join(map(str, left_out))
            reason = (
                f"{count} contenders do not fit into {max(0.0, seconds):.0f} s: PyTorch in fp32 "
                f"takes {call:.2f} s for one query and one document"
            )
            self._skip(f"{device}, batch size {listed}", reason)
        if not sizes:
            return
        inputs = Inputs(tuple(made["queries"]), tuple(made["documents"]), made["pages"])
        settings = self._settings(sizes, spare / (count * 2 * len(sizes)), seconds)
        steps = 0

        def progress(message: str) -> None:
            nonlocal steps
            steps += 1
            # A run that has loaded everyone is bounded by its settings, and worth its end.
            if steps <= count and self._left() <= 0:
                raise _OutOfTime(message)
            self.report(f"{self.name} on {device}: {message}")

        try:
            found = measure(everyone, inputs, settings, progress)
        except _OutOfTime as ended:
            self._skip(device, f"the time was used up when {ended} was due")
            return
        add_speedups_vs_bf16(found["rows"])
        self.record["rows"] += found["rows"]
        self.record["noise"].append({"model": self.name, "device": device, **found["noise"]})

    def _entrants(
        self, made: Mapping[str, Any], providers: Mapping[str, Mapping[str, Any]]
    ) -> list[Contender]:
        """PyTorch once, and each variant in each entry; those that cannot run become rows."""
        checkpoint = {"folder": made["checkpoint"], "family": made["family"]}
        everyone: dict[tuple[str, str], Contender] = {}
        for name, entry in providers.items():
            contest = Contest(self.name, name, checkpoint, made["folders"], list, "", entry)
            able, missing = contest.entrants(self.plan.threads, ("bf16",))
            everyone |= {(item.variant, item.provider): item for item in able}
            for variant, limit in missing.items():
                told = {"status": "unsupported", "reason": str(limit)}
                self.record["rows"] += [
                    make_row(self.name, variant, name, Case(kind, size), **told)
                    for kind in KINDS
                    for size in self.plan.batch_sizes
                ]
        return list(everyone.values())

    def _settings(self, sizes: Sequence[int], share: float, seconds: float) -> LatencySettings:
        """How long a case may take, from its share of the time that is left."""
        most = min(self.plan.case_seconds, max(0.02, 0.5 * share))
        return LatencySettings(
            batch_sizes=tuple(sizes),
            rounds=_ROUNDS,
            min_samples=2 * _ROUNDS,
            min_seconds=most / 2,
            max_seconds=most,
            warmup_max_seconds=most / 2,
            precision=0.02,
            threads=self.plan.threads,
            quiet_wait_s=min(self.plan.quiet_seconds, seconds / 10),
            parts_calls=10,
            parts_seconds=min(0.3, most / 2),
            timeout_s=max(_LEAST_SECONDS, seconds),
        )

    def _left(self) -> float:
        return self.deadline - time.monotonic()

    def _skip(self, what: str, reason: str) -> None:
        self.report(f"{self.name}: {what} not run: {reason}")
        self.record["not_run"].append({"model": self.name, "what": what, "reason": reason})


def add_speedups_vs_bf16(rows: Sequence[dict[str, Any]]) -> None:
    """Add the speed-ups over PyTorch in bf16, of whole calls and of the model alone, in place.

    Args:
        rows: Rows of one latency run.
    """
    bases = {
        (row["kind"], row["batch_size"]): row
        for row in rows
        if row["variant"] == _BF16 and row["status"] == "ok"
    }
    for row in rows:
        base = bases.get((row["kind"], row["batch_size"]), {})
        for column, figure in (
            ("speedup_vs_bf16", "p50_ms"),
            ("graph_speedup_vs_bf16", "graph_ms"),
        ):
            known = base.get(figure) and row[figure]
            row[column] = base[figure] / row[figure] if known else None


if __name__ == "__main__":
    start(main)
