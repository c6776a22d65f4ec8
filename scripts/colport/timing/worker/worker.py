"""The process of one contender, which answers the requests of its lane.

Requests: ``load`` (contender and inputs), ``first``, ``warm_up``, ``block`` and ``parts``, each of
a ``kind`` and of ``batches``, the numbers of the inputs of each call.
"""

from __future__ import annotations

import gc
import importlib
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from colport.base.errors import ColPortError, UnsupportedError
from colport.base.machine import peak_rss_mb
from colport.base.names import CALLS
from colport.processes.wire import serve
from colport.timing.schedule import is_stable
from colport.timing.worker.cores import place, release
from colport.timing.worker.memory import is_out_of_memory, limit_memory


class Worker:
    """A contender and its inputs, once loaded."""

    def __init__(self) -> None:
        self._encoder: Any = None
        self._forms_batches = False
        self._inputs: dict[str, list[Any]] = {}
        self._cores: list[int] | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what one request asks; an exception of the contender is part of the answer."""
        asked = request["request"]
        try:
            if self._cores is not None:
                (release if self._starts_threads(request) else place)(self._cores)
            reply = getattr(self, f"_{asked}")(request)
            if asked in ("load", "first"):
                _keep_from_collection()
        except Exception as error:  # noqa: BLE001 - whatever a contender raises is a result
            reply = _failure(error)
        return {**reply, "peak_rss_mb": peak_rss_mb()}

    def _starts_threads(self, request: Mapping[str, Any]) -> bool:
        """Whether the calls of a request start threads, which inherit the cores of the old."""
        has_several = any(len(batch) > 1 for batch in request["batches"])
        return request["request"] == "first" or (self._forms_batches and has_several)

    def _load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if request.get("max_memory_mb") is not None:
            limit_memory(request["max_memory_mb"])
        pages = [_open_page(path) for path in request["documents"]] if request["pages"] else []
        documents = pages or request["documents"]
        self._inputs = {**dict.fromkeys(CALLS, documents), "query": request["queries"]}
        self._cores = request["cores"]
        module_name, _, attribute = request["factory"].partition(":")
        start = time.perf_counter_ns()
        factory = getattr(importlib.import_module(module_name), attribute)
        imported = time.perf_counter_ns()
        _limit_torch(request["threads"])
        begin = time.perf_counter_ns()
        encoder = factory(**request["arguments"])
        loaded = time.perf_counter_ns()
        _limit_torch(request["threads"])
        self._encoder, self._forms_batches = encoder, request["forms_batches"]
        return {
            "import_ns": imported - start,
            "load_ns": loaded - begin,
            "image_size": "{}x{}".format(*pages[0].size) if pages else "",
        }

    def _first(self, request: Mapping[str, Any]) -> dict[str, Any]:
        largest = max(request["batches"], key=len)
        duration, outputs = self._call(request["kind"], largest)
        tokens = _count_tokens(outputs, len(largest))
        np.savez(request["outputs"], *outputs)
        return {"duration_ns": duration, "tokens": tokens}

    def _warm_up(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Call until durations are stable, every batch once at least, but for the bounds."""
        kind, batches = request["kind"], request["batches"]
        durations: list[int] = []
        deadline = time.perf_counter_ns() + request["max_seconds"] * 1e9
        while len(durations) < request["max_calls"] and time.perf_counter_ns() < deadline:
            durations.append(self._call(kind, batches[len(durations) % len(batches)])[0])
            if len(durations) >= len(batches) and is_stable(durations):
                break
        return {"durations_ns": durations, "stable": is_stable(durations)}

    def _block(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Time whole passes over the batches; only ``max_seconds`` ends one before its end."""
        kind, batches = request["kind"], request["batches"]
        settling = [self._call(kind, batches[0])[0] for _ in range(request["settle"])]
        durations: list[int] = []
        spent, enough = sum(settling), request["seconds"] * 1e9
        sampled, bound = 0, request["max_seconds"] * 1e9
        while not durations or spent < bound:
            duration = self._call(kind, batches[len(durations) % len(batches)])[0]
            durations.append(duration)
            sampled += duration
            spent += duration
            is_whole = len(durations) % len(batches) == 0
            if is_whole and len(durations) >= request["calls"] and sampled >= enough:
                break
        return {"durations_ns": durations, "settle_ns": settling}

    def _parts(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Time preprocessing and the model in turn, behind one call of each that does not count."""
        name = CALLS[request["kind"]].replace("encode", "prepare")
        prepare, run = getattr(self._encoder, name, None), getattr(self._encoder, "run", None)
        durations: dict[str, list[int]] = {"preprocess_ns": [], "graph_ns": []}
        if prepare is None or run is None:
            return durations
        items = self._batch(request["kind"], request["batches"][0])
        run(prepare(items))
        deadline = time.perf_counter_ns() + request["seconds"] * 1e9
        for _ in range(request["calls"]):
            start = time.perf_counter_ns()
            batch = prepare(items)
            prepared = time.perf_counter_ns()
            run(batch)
            end = time.perf_counter_ns()
            durations["preprocess_ns"].append(prepared - start)
            durations["graph_ns"].append(end - prepared)
            if end > deadline:
                break
        return durations

    def _batch(self, kind: str, numbers: Sequence[int]) -> list[Any]:
        return [self._inputs[kind][number] for number in numbers]

    def _call(self, kind: str, numbers: Sequence[int]) -> tuple[int, list[np.ndarray]]:
        """Time one whole call: tokenizing, image resizing and copies are part of it."""
        encode, batch = getattr(self._encoder, CALLS[kind]), self._batch(kind, numbers)
        size = None if self._forms_batches else len(batch)
        start = time.perf_counter_ns()
        outputs = encode(batch, batch_size=size)
        return time.perf_counter_ns() - start, outputs


def _limit_torch(threads: int) -> None:
    """Fix PyTorch's threads where the contender uses it; others must not pay for its import."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _open_page(path: str) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


def page_pixels(file: str) -> int:
    """Pixels of a page of the inputs; its file is not decoded."""
    from PIL import Image

    with Image.open(file) as page:
        return page.width * page.height


def _count_tokens(outputs: list[np.ndarray], batch_size: int) -> float:
    """Mean tokens an input.

    Raises:
        TypeError: The outputs are not one ``[tokens, dim]`` NumPy array an input. A tensor on a
            device would mean that its computation may end after the timed call.
    """
    right = len(outputs) == batch_size and all(
        isinstance(output, np.ndarray) and output.ndim == 2 for output in outputs
    )
    if not right:
        found = [f"{type(output).__name__}{np.shape(output)}" for output in outputs[:2]]
        raise TypeError(
            f"encoding {batch_size} input(s) gave {len(outputs)} output(s), the first {found}; "
            "expected one NumPy array [tokens, dim] an input."
        )
    return sum(output.shape[0] for output in outputs) / batch_size


def _keep_from_collection() -> None:
    """Take what is there now out of Python's garbage collection, as servers do.

    A full collection over the half a million objects of PyTorch and transformers stops a call for
    0.3 seconds.
    """
    gc.collect()
    gc.freeze()


def _failure(error: Exception) -> dict[str, Any]:
    known = isinstance(error, ColPortError)
    return {
        "error": str(error) if known else f"{type(error).__name__}: {error}",
        "unsupported": getattr(error, "status", "") == UnsupportedError.status,
        "out_of_memory": is_out_of_memory(error),
        "traceback": traceback.format_exc(),
    }


if __name__ == "__main__":
    serve(Worker().answer)
