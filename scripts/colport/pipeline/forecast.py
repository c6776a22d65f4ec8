"""What a run will take on this machine, by the sizes of its models and datasets, before it starts.

Memory is what jobs ask a cluster for (:mod:`.needs`). Times are multiplications and additions, two
a parameter and token, over the measured rate of a large product, and a start of each job: good to
a factor of two (docs/costs.md). Both are those of the CPU.
"""

from __future__ import annotations

import timeit
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from colport.base import machine
from colport.base.errors import CheckpointError, DatasetError
from colport.base.foreign import table_beside
from colport.data.datasets import load_retrieval_dataset
from colport.families import registry
from colport.hub import checkpoints
from colport.pipeline import needs
from colport.pipeline.plan import Plan
from colport.quantize.settings import Calibration, QuantizeSettings
from colport.scoring.embed import shard_count

FACTS = table_beside(__file__)
PUBLISHED = table_beside(str(Path(__file__).with_name("published")))
"""Checkpoints of the Hub by their ids: those that families of ours ``read``, and ``refused``."""

_SIDE, _PRODUCTS = 1024, 40  # of the product whose rate is measured, and how often


def product_rate() -> float:
    """Multiplications and additions a second of a large fp32 product on all cores, at its best."""
    one = np.ones((_SIDE, _SIDE), np.float32)
    return 2 * _SIDE**3 / min(timeit.repeat(lambda: one @ one, number=1, repeat=_PRODUCTS))


def parameters_of(declaration: Mapping[str, Any]) -> tuple[int, bool]:
    """Parameters of a checkpoint, and whether it is here.

    Raises:
        CheckpointError: What is here is damaged, or it is neither here nor in ``published.toml``.
    """
    try:
        return checkpoints.parameters(declaration), True
    except CheckpointError:
        known = PUBLISHED["read"].get(declaration.get("hub"), {})
        if "parameters" not in known:
            raise
        return known["parameters"], False


@cache
def counts(plan: Plan, name: str) -> tuple[int, int]:
    """Documents and queries of a dataset: counted here, or as the config says of one on the Hub.

    Raises:
        DatasetError: It says nothing, or what is here is damaged.
    """
    declaration, size = plan.config["datasets"][name], plan.sizes[name]
    if "hub" not in declaration:
        found = load_retrieval_dataset(name, declaration)
        return len(found.document_ids), len(found.queries)
    if not size:
        raise DatasetError(f"datasets.{name}.size: is missing; how large it is, is not known here.")
    return min(size["documents"], declaration.get("limit", size["documents"])), size["queries"]


class Forecast:
    """What one model of a run takes.

    Args:
        plan: The run.
        name: The model.

    Attributes:
        parameters: Of its checkpoint.
        fetched: Bytes of a checkpoint that is not here.
        written: Bytes of its variants and of all embeddings, and of a calibration while it runs.

    Raises:
        CheckpointError: See :func:`parameters_of`.
        DatasetError: See :func:`counts`.
    """

    def __init__(self, plan: Plan, name: str) -> None:
        model, variants = plan.config["models"][name], plan.config["variants"]
        self._plan, self._name = plan, name
        self.parameters, is_here = parameters_of(model["checkpoint"])
        kind = registry.get(model["family"]).document_type
        self.fetched = 0 if is_here else FACTS["published"][kind] * self.parameters
        self._tokens = needs.TOKENS[kind]
        self._sets = [counts(plan, dataset) for dataset in plan.of(name)]
        self._folders = {}
        for variant in plan.variants:
            precision = variants[variant]["precision"]
            size = int(FACTS["bytes"][precision] * self.parameters)
            self._folders[variant] = needs.Folder(precision, size, self.parameters)
        self._runs = [variant for variant, _ in plan.runs if variant in self._folders]
        scratch = FACTS["scratch"] * any(map(plan.is_calibrated, plan.quantized))
        document = FACTS["token_bytes"] * self._tokens * (1 + len(self._runs))
        self.written = scratch * self.parameters
        self.written += sum(folder.size_bytes for folder in self._folders.values())
        self.written += document * sum(documents for documents, _ in self._sets)

    def largest(self) -> tuple[float, str]:
        """MB that its largest job takes at least, and the stage; PyTorch's weights may stay in files."""
        config, folders = self._plan.config, self._folders
        latency = {**config["latency"], "batch_sizes": [min(config["latency"]["batch_sizes"])]}
        config, found = {**config, "reference": {"memory_mb": 1}, "latency": latency}, []
        for stage, variant, *_ in self._jobs():
            files = SimpleNamespace(
                checkpoint={"parameters": self.parameters},
                dataset={"counts": {"documents": max(self._sets)[0]}},
                model=folders.get(variant),
                base=variant and folders.get(config["variants"][variant].get("base")),
                models=[*folders.values()],
            )
            wildcards = SimpleNamespace(model=self._name, variant=variant)
            found.append((needs.STAGES[stage](needs.Job(config, wildcards, files, 1))[0], stage))
        return max(found)

    def seconds(self, rate: float) -> dict[str, float]:
        """What is done, to its time: a job on each core, but for latency, which has all."""
        latency, cores = self._plan.config["latency"], machine.usable_cores()
        calls = FACTS["warm_up"] + max(latency["rounds"], latency["min_samples"])
        cases = 2 * len(latency["batch_sizes"])
        longest = cases * (latency["max_seconds"] + latency["warmup_max_seconds"])
        strongest = machine.processor_class({"instructions": machine.instructions()})
        spent, beside = Counter(), Counter()
        for stage, variant, count, documents, queries in self._jobs():
            speeds = FACTS["speed"][self._folders[variant].precision if variant else "pytorch"]
            tokens = self._tokens * documents + FACTS["query_tokens"] * queries
            products = 2 * self.parameters * tokens / rate / speeds.get(strongest, speeds["any"])
            start = FACTS["start"][stage] + FACTS["weights"].get(stage, 0) * self.parameters / 1e9
            if stage == "latency":
                timed = max(products * calls, cases * latency["min_seconds"])
                spent[stage] += start + max(products, min(timed, longest))
            else:
                doing = FACTS["doing"].get(stage, stage)
                spent[doing] += count * start + products * cores
                beside[doing] += count
        return {doing: spent[doing] / max(1, min(cores, beside[doing])) for doing in FACTS["order"]}

    def _jobs(self) -> Iterator[tuple[str, str, int, float, float]]:
        """Stage, variant (empty for PyTorch), how many, and what they encode in all.

        Those of latency are its contenders.
        """
        plan, config, runs = self._plan, self._plan.config, self._runs
        yield "proof", "", 1, 8, 8
        yield from (("export", variant, 1, 0, 0) for variant in plan.exported)
        for variant in plan.quantized:
            settings = QuantizeSettings.from_config(config["variants"][variant])
            inputs = (settings.calibration or Calibration()).inputs * settings.is_calibrated
            inputs *= FACTS["calibrations"]
            yield "quantize", variant, 1, inputs, inputs
        inputs = len(config["parity"]["batch_sizes"]) * config["parity"]["inputs"]
        yield from (("parity", variant, 1, inputs, inputs) for variant in runs)
        for each in self._sets:
            shards = shard_count(each[0], config["encode"]["shard_documents"])
            yield "reference", "", shards, *each
            yield "score", "", 1 + len(runs), 0, 0
            yield from (("embed", variant, shards, *each) for variant in runs)
        inputs = sum(config["latency"]["batch_sizes"])
        pytorch = len(plan.providers) * (1 + len(config["latency"]["pytorch"]))
        yield from (("latency", name, 1, inputs, inputs) for name in [*[""] * pytorch, *runs])
