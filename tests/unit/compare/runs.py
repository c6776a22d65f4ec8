"""A small results folder: PyTorch and two variants, as an undisturbed run writes it."""

import copy
import random

from colport import tables
from colport.base.files import write_json
from colport.tables.summary import build

MODEL, FP32, INT8 = "model", "fp32", "int8"
QUERIES = [f"q{number:02d}" for number in range(40)]
ENVIRONMENT = {
    "packages": {"torch": "2.13.0", "transformers": "5.23.0"},
    **{"cpu": "a cpu", "cores": 2, "memory_mb": 1000, "gpu": None},
}


def row(stage: str, **values):
    return {**dict.fromkeys(tables.COLUMNS[stage]), "status": "ok", "reason": "", **values}


def rounds(milliseconds: float, seed: int, number: int = 5) -> list[list[int]]:
    generator = random.Random(seed)
    return [
        [int(milliseconds * 1e6 * generator.uniform(0.99, 1.01)) for _ in range(6)]
        for _ in range(number)
    ]


def scenario_rows(owner, milliseconds: float):
    """A row of each scenario; the server passes at nine tenths of what its calls allow."""
    named = {**owner, "kind": "query", "status": "ok", "reason": "", "best": True}
    rate = 900 / milliseconds
    yield {**named, "scenario": "single_stream", "batch_size": 1}
    yield {**named, "scenario": "offline", "batch_size": 1}
    server = {"highest_rate": rate, "failed_rate": 1.2 * rate}
    yield {**named, "scenario": "server", "batch_size": 8, **server}


def scenario_calls(milliseconds: float, seed: int) -> list[dict]:
    generator = random.Random(seed)
    return [
        {
            **{"scenario": scenario, "kind": "query", "batch_size": 1},
            "round_costs_ns": [
                milliseconds * 1e6 * generator.uniform(0.99, 1.01) for _ in range(5)
            ],
        }
        for scenario in ("single_stream", "offline")
    ]


class Run:
    """Records of PyTorch and two variants; a test changes them, then writes the folder."""

    def __init__(self) -> None:
        place = {"model": MODEL, "provider": "cpu"}
        reference = {"model": MODEL, "variant": "pytorch", "provider": "torch-cpu"}
        self.export = {
            variant: {
                "rows": [
                    row(
                        "export",
                        **{"model": MODEL, "variant": variant, "graph": "text", "seconds": 20.0},
                        **{"size_bytes": size, "folder_bytes": size, "peak_rss_mb": 1000.0},
                    )
                ],
                "environment": ENVIRONMENT,
            }
            for variant, size in ((FP32, 80_000_000), (INT8, 20_000_000))
        }
        self.parity = {
            variant: {
                "rows": [
                    row(
                        "parity",
                        **{**place, "variant": variant, "kind": kind, "passed": True},
                        **{"inputs": 48, "tokens": 1536, "tolerance": "min_cosine>=0.9"},
                        **{"min_cosine": cosine, "mean_cosine": cosine},
                    )
                    for kind in ("query", "document")
                ]
            }
            for variant, cosine in ((FP32, 0.9999999), (INT8, 0.98))
        }
        values = {query: 1.0 if index % 4 else 0.5 for index, query in enumerate(QUERIES)}
        self.retrieval = {
            (variant, provider): {
                "rows": [
                    row(
                        "retrieval",
                        **{**place, "variant": variant, "provider": provider, "dataset": "pages"},
                        **{"queries": 40, "documents": 40, "ndcg_at_5": 0.875},
                        **{"ndcg_at_5_low": 0.8, "ndcg_at_5_high": 0.93},
                    )
                ],
                "per_query": {"ndcg_at_5": dict(values)},
            }
            for variant, provider in (("pytorch", "torch-cpu"), (FP32, "cpu"), (INT8, "cpu"))
        }
        figures = {"kind": "query", "batch_size": 1, "tokens": 32.0, "image_size": ""}
        contenders = [(reference, 40.0), *(({**place, "variant": v}, 20.0) for v in (FP32, INT8))]
        self.latency = {
            "rows": [
                row("latency", **{**owner, **figures, "peak_rss_mb": 500.0})
                for owner, _ in contenders
            ],
            "samples": [
                {**owner, "kind": "query", "batch_size": 1, "rounds_ns": rounds(ms, index)}
                for index, (owner, ms) in enumerate(contenders)
            ],
            "settings": {"threads": 2},
            "environment": copy.deepcopy(ENVIRONMENT),
            "noise": {"noisy": False, "reasons": []},
        }
        self.scenarios = {
            "rows": [row for owner, ms in contenders for row in scenario_rows(owner, ms)],
            "samples": [
                {**owner, "calls": scenario_calls(ms, index)}
                for index, (owner, ms) in enumerate(contenders)
            ],
            "settings": {"threads": 2, "inputs": 16, "offline": {}, "server": {}},
            "environment": copy.deepcopy(ENVIRONMENT),
            "noise": {"noisy": False, "reasons": []},
        }
        self.dataset = {"query_ids": QUERIES, "qrels": {query: {"d": 1} for query in QUERIES}}

    def write(self, folder, records=True):
        stages = {
            "export": list(self.export.values()),
            "parity": list(self.parity.values()),
            "retrieval": list(self.retrieval.values()),
            "latency": [self.latency],
        }
        tables.write_tables(build(stages), folder / "tables")
        if records:
            for variant, record in self.export.items():
                write_json(folder / f"export/{MODEL}/{variant}.json", record)
            for (variant, provider), record in self.retrieval.items():
                parts = [variant] if variant == "pytorch" else [variant, provider]
                write_json(folder.joinpath("retrieval", MODEL, *parts, "pages.json"), record)
            write_json(folder / f"latency/{MODEL}/cpu.json", self.latency)
            write_json(folder / f"scenarios/{MODEL}/cpu.json", self.scenarios)
            write_json(folder / "datasets/pages.json", self.dataset)
        return folder

    def slow_down(self, index: int, factor: float) -> None:
        sample = self.latency["samples"][index]
        sample["rounds_ns"] = [[int(ns * factor) for ns in one] for one in sample["rounds_ns"]]
