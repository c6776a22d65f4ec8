"""What a latency job is told: contenders, inputs, and how long to measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from colport.base import declared
from colport.base.errors import ConfigError
from colport.base.machine import usable_cores
from colport.base.names import KINDS

Cores = Annotated[tuple[declared.Natural, ...], declared.Allowed(minItems=1, uniqueItems=True)]


@dataclass(frozen=True)
class Case:
    """What is timed: one call that encodes ``batch_size`` inputs of one kind."""

    table: ClassVar[str] = "latency"
    """Name of the table that its row is of."""

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
            or what else :data:`colport.base.names.CALLS` has for the kinds that are timed, each
            returning one NumPy array ``[tokens, dim]`` an input. With ``prepare_queries`` and
            ``prepare_documents``, which preprocess one batch, and ``run``, which takes what they
            return through the model to the host, the parts are timed too.
        arguments: Keyword arguments of the factory; they must be JSON values. Where they hold
            ``threads``, it must equal :attr:`LatencySettings.threads`.
        files: Folders that the factory reads; dropped from the page cache before a cold load.
        python: Interpreter of its worker; ``None`` is this one.
        note: What its rows say beside their figures.
        forms_batches: It is called without ``batch_size``, as its users do, and forms its batches.
    """

    model: str
    variant: str
    provider: str
    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    python: str | None = None
    note: str = ""
    forms_batches: bool = False

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
        timed: The kinds of calls on them; all but ``query`` take documents.
    """

    queries: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    pages: bool = False
    timed: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        object.__setattr__(self, "queries", tuple(self.queries))
        object.__setattr__(self, "documents", tuple(str(item) for item in self.documents))

    def of(self, kind: str) -> tuple[str, ...]:
        """Those of one kind."""
        return self.queries if kind == "query" else self.documents

    def kinds(self) -> tuple[str, ...]:
        """The kinds that have inputs, queries first."""
        return tuple(kind for kind in self.timed if self.of(kind))

    def first(self, kind: str, count: int) -> list[int]:
        """Numbers of so many inputs of a kind, from the start again where there are fewer."""
        return [number % len(self.of(kind)) for number in range(count)]


@dataclass(frozen=True)
class LatencySettings:
    """How long and how often to measure."""

    batch_sizes: declared.Sizes = (1, 8, 32)
    """Each is a case of its own, for queries and for documents."""

    rounds: declared.Count = 10
    """How often the contenders take turns."""

    min_samples: declared.Count = 20
    """Samples of a case over all rounds, at least."""

    min_seconds: declared.NotNegative = 0.5
    """Seconds of samples of a case over all rounds, at least."""

    max_seconds: declared.Positive = 10
    """Seconds after which no further call of a case starts; this comes before the minima, but every
    case has at least one sample."""

    precision: declared.NotNegative = 0.02
    """A case ends before its last round once the 95% interval of every contender's p50 reaches
    no further than this share of it, on either side; 0: never."""

    warmup_max_calls: declared.Count = 20
    """The warm-up ends once calls are stable, or after this number of calls."""

    warmup_max_seconds: declared.Positive = 5
    """The warm-up ends once calls are stable, or after this number of seconds."""

    quiet_wait_s: declared.NotNegative = 30
    """Seconds, all turns together, that a job waits for other work on the machine to pass; a noisy
    run says so either way."""

    timeout_s: declared.Positive = 600
    """Seconds within which a contender has to answer, beyond the time asked for; else it has
    failed."""

    threads: declared.Count = field(default_factory=usable_cores)
    """Threads of each contender; all cores of the job by default."""

    affinity: bool | Cores = True
    """``true``: contenders are pinned to as many physical cores as they have threads; ``false``:
    not pinned; or a list of logical cores."""

    cold_load: bool = False
    """``true``: each contender is also loaded once, in a process of its own, with its files dropped
    from the page cache."""

    max_memory_mb: Annotated[int | None, declared.Allowed(minimum=1)] = None
    """MiB that a contender's process may allocate; without it, what the machine has. Where memory
    runs out at a batch size, its row is ``unsupported`` and names the largest that ran."""

    seed: declared.Natural = 0
    """Seed of the order in which contenders take turns."""

    caption_tokens: declared.Count = 16
    """Tokens of each caption that a captioner is timed with; also where it would end earlier."""

    settle_calls: Annotated[declared.Natural, declared.IN_CODE] = 1
    """Calls at the start of a block that do not count: other processes have had the caches since.
    Left out where they would take the time of samples."""

    parts_calls: Annotated[declared.Count, declared.IN_CODE] = 3
    """Calls of each part of a call (preprocessing, the model) in one turn."""

    parts_seconds: Annotated[float, declared.IN_CODE] = 0.2
    """Seconds after which no further call of a part starts in a turn."""

    def __post_init__(self) -> None:
        declared.check(self)

    def cases(self, inputs: Inputs) -> tuple[Case, ...]:
        """Every case in the order of measuring: queries first, small batches as listed."""
        return tuple(Case(kind, size) for kind in inputs.kinds() for size in self.batch_sizes)
