"""What a run will take on this machine, by the sizes of its models and datasets, before it starts.

Memory is what jobs ask a cluster for (:mod:`.needs`). Times are multiplications and additions, two
a parameter and token, over the measured rate of a large product, and a start of each job: good to
a factor of two (docs/costs.md). Both are of our variants on the CPU.
"""

from __future__ import annotations

import timeit
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
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
from colport.pipeline.published import PUBLISHED
from colport.quantize.settings import Calibration, QuantizeSettings
from colport.scoring.embed import shard_count

FACTS = table_beside(__file__)

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
    except CheckpointError as error:
        known = PUBLISHED["read"].get(declaration.get("hub"), {})
        if "parameters" not in known:
            raise CheckpointError(f"{error} Its size stands in no table of ColPort's.") from error
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
        family = registry.get(model["family"])
        kind = family.reads
        self.fetched = 0 if is_here else FACTS["published"][kind] * self.parameters
        self._tokens = tokens = needs.TOKENS[kind]
        self._sets = [counts(plan, dataset) for dataset in plan.of(name)]
        self._folders = {}
        for variant in plan.variants:
            precision = variants[variant]["precision"]
            size = int(FACTS["bytes"][precision] * self.parameters)
            self._folders[variant] = needs.Folder(precision, size, self.parameters)
        each = FACTS["vector_bytes"] if family.is_single_vector else FACTS["token_bytes"] * tokens
        embedded = each * sum(documents for documents, _ in self._sets)
        self.written = embedded * (1 + len(self._folders))
        self.written += sum(folder.size_bytes for folder in self._folders.values())
        is_calibrated = any(map(plan.is_calibrated, plan.quantized))
        self.written += FACTS["scratch"] * self.parameters * is_calibrated

    def largest(self) -> tuple[float, str]:
        """MB that its largest job takes at least, and the stage.

        At least: PyTorch's weights stay in their files, latency has its smallest batch.
        """
        config, folders = self._plan.config, [*self._folders.values()]
        latency = {**config["latency"], "batch_sizes": [min(config["latency"]["batch_sizes"])]}
        config, found = {**config, "reference": {"memory_mb": 1}, "latency": latency}, []
        heaviest = max(folders, key=needs.Folder.session_mb)
        files = SimpleNamespace(model=heaviest, base=heaviest, models=folders)
        files.checkpoint = {"parameters": self.parameters}
        files.dataset = {"counts": {"documents": max(self._sets)[0]}}
        for stage, variant, *_ in self._jobs():
            job = needs.Job(config, SimpleNamespace(model=self._name, variant=variant), files, 1)
            found.append((needs.STAGES[stage](job)[0], stage))
        return max(found)

    def seconds(self, rate: float) -> dict[str, float]:
        """Of each stage: a job on each core, but for latency, which has all."""
        latency, cores = self._plan.config["latency"], machine.usable_cores()
        calls = FACTS["warm_up"] + max(latency["rounds"], latency["min_samples"])
        cases = 2 * len(latency["batch_sizes"])
        longest = cases * (latency["max_seconds"] + latency["warmup_max_seconds"])
        strongest = machine.processor_class(machine.describe())
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
                spent[stage] += count * start + products * cores
                beside[stage] += count
        return {stage: spent[stage] / max(1, min(cores, beside[stage])) for stage in spent}

    def _jobs(self) -> Iterator[tuple[str, str, int, float, float]]:
        """Stage, variant (empty for PyTorch), how many, and what they encode in all.

        Those of latency are its contenders; parity and scores are counted with what is embedded.
        """
        plan, config = self._plan, self._plan.config
        yield "proof", "", 1, 4, 4
        yield from (("export", variant, 1, 0, 0) for variant in plan.exported)
        for variant in plan.quantized:
            settings = QuantizeSettings.from_config(config["variants"][variant])
            inputs = (settings.calibration or Calibration()).inputs * settings.is_calibrated
            yield "quantize", variant, 1, *[FACTS["calibrations"] * inputs] * 2
        for each in self._sets:
            shards = shard_count(each[0], config["encode"]["shard_documents"])
            yield "reference", "", shards, *each
            yield from (("embed", variant, shards, *each) for variant in self._folders)
        inputs = sum(config["latency"]["batch_sizes"])
        for variant in [*[""] * (1 + len(config["latency"]["pytorch"])), *self._folders]:
            yield "latency", variant, 1, inputs, inputs
