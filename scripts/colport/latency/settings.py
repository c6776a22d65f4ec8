"""What a latency job is told: contenders, inputs, and how long to measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from colport.environment import usable_cores
from colport.errors import ConfigError

KINDS = ("query", "document")
REFERENCE_VARIANT = "pytorch"


@dataclass(frozen=True)
class Case:
    """What is timed: one call that encodes ``batch_size`` inputs of one kind."""

    kind: str
    batch_size: int


@dataclass(frozen=True)
class Contender:
    """One row of the comparison, and how a worker makes it.

    Attributes:
        model: The model's name; all contenders of a run share it.
        variant: The variant's name; ``pytorch`` is the reference of every speed-up.
        provider: The execution provider, or ``torch-cpu`` / ``torch-cuda``.
        factory: ``package.module:callable``. The callable returns an object with
            ``encode_queries(texts, batch_size=…)`` and ``encode_documents(items, batch_size=…)``,
            each returning one NumPy array ``[tokens, dim]`` an input. With ``prepare_queries`` and
            ``prepare_documents``, which preprocess one batch, and ``run``, which takes what they
            return through the model to the host, the parts are timed too.
        arguments: Keyword arguments of the factory; they must be JSON values. Where they hold
            ``threads``, it must equal :attr:`LatencySettings.threads`.
        files: Folders that the factory reads; dropped from the page cache before a cold load.
        python: Interpreter of its worker; ``None`` is this one.
        note: What its rows say beside their figures.
    """

    model: str
    variant: str
    provider: str
    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    python: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        module, separator, name = self.factory.partition(":")
        if not (module and separator and name):
            raise ConfigError(
                f"Contender.factory: found {self.factory!r}; expected 'package.module:callable'."
            )


@dataclass(frozen=True)
class Inputs:
    """The inputs that every contender encodes, the same in every round.

    A case of batch size ``n`` takes the first ``n`` inputs, from the start again where there are
    fewer. A kind without inputs is not measured.

    Attributes:
        queries: Query texts.
        documents: Image file paths where ``pages`` is true, texts otherwise.
        pages: Documents are page images; a worker opens them once, before any timing.
    """

    queries: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    pages: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "queries", tuple(self.queries))
        object.__setattr__(self, "documents", tuple(str(item) for item in self.documents))

    def of(self, kind: str) -> tuple[str, ...]:
        """Those of one kind."""
        return self.queries if kind == "query" else self.documents

    def kinds(self) -> tuple[str, ...]:
        """The kinds that have inputs, queries first."""
        return tuple(kind for kind in KINDS if self.of(kind))

    def first(self, kind: str, count: int) -> list[int]:
        """Numbers of so many inputs of a kind, from the start again where there are fewer."""
        return [number % len(self.of(kind)) for number in range(count)]


@dataclass(frozen=True)
class LatencySettings:
    """How long and how often to measure.

    Attributes:
        batch_sizes: Batch sizes; each is a case of every kind.
        warmup_max_calls: Warm-up ends after so many calls, stable or not.
        warmup_max_seconds: Warm-up ends after so many seconds, stable or not.
        rounds: How often the contenders take turns.
        settle_calls: Calls at the start of a block that do not count: other processes have had
            the caches since. Left out where they would take the time of samples.
        min_samples: Samples of a case over all rounds, at least.
        min_seconds: Seconds of samples of a case over all rounds, at least.
        max_seconds: Seconds after which no further call of a case starts; goes before the
            minima, but every case has at least one sample.
        precision: A case ends before its last round once the 95% interval of every contender's
            p50 lies within so large a share of it on either side; 0 never ends one early.
        threads: Threads of each contender.
        affinity: Pin contenders to physical cores (:func:`colport.latency.cores.choose`), to none,
            or to the logical cores listed.
        cold_load: Load each contender once more before the run, in a process of its own, with its
            files dropped from the page cache.
        seed: Seed of the order in which contenders take turns.
        quiet_wait_s: Seconds that a run may spend, all turns together, on waiting for other
            processes to finish theirs; 0 measures at once.
        parts_calls: Calls of each part of a call (preprocessing, the model) in one turn.
        parts_seconds: Seconds after which no further call of a part starts in a turn.
        max_memory_mb: MiB of private memory that a contender may allocate; ``None``: all there is.
        timeout_s: Seconds without an answer, beyond those asked for, after which a worker is
            given up.
    """

    batch_sizes: tuple[int, ...] = (1,)
    warmup_max_calls: int = 20
    warmup_max_seconds: float = 10.0
    rounds: int = 10
    settle_calls: int = 1
    min_samples: int = 20
    min_seconds: float = 0.5
    max_seconds: float = 10.0
    precision: float = 0.0
    threads: int = field(default_factory=usable_cores)
    affinity: bool | tuple[int, ...] = True
    cold_load: bool = False
    seed: int = 0
    quiet_wait_s: float = 30.0
    parts_calls: int = 3
    parts_seconds: float = 0.2
    max_memory_mb: int | None = None
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        sizes = tuple(self.batch_sizes)
        object.__setattr__(self, "batch_sizes", sizes)
        if not isinstance(self.affinity, bool):
            object.__setattr__(self, "affinity", tuple(self.affinity))
        if not sizes or min(sizes) < 1 or len(set(sizes)) != len(sizes):
            raise ConfigError(
                f"batch_sizes: found {list(sizes)}; expected different whole numbers from 1 up."
            )
        for name in ("rounds", "min_samples", "threads", "warmup_max_calls", "parts_calls"):
            self._check(name, at_least=1)
        for name in (
            "settle_calls",
            "min_seconds",
            "warmup_max_seconds",
            "quiet_wait_s",
            "precision",
        ):
            self._check(name, at_least=0)
        for name in ("max_seconds", "timeout_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: found {getattr(self, name)}; expected more than 0.")
        if self.max_memory_mb is not None:
            self._check("max_memory_mb", at_least=1)
        if self.max_seconds < self.min_seconds:
            raise ConfigError(
                f"max_seconds: found {self.max_seconds}; expected at least min_seconds, "
                f"{self.min_seconds}."
            )

    def cases(self, inputs: Inputs) -> tuple[Case, ...]:
        """Every case in the order of measuring: queries first, small batches as listed."""
        return tuple(Case(kind, size) for kind in inputs.kinds() for size in self.batch_sizes)

    def _check(self, name: str, at_least: int) -> None:
        value = getattr(self, name)
        if not value >= at_least:
            raise ConfigError(f"{name}: found {value}; expected at least {at_least}.")
