"""Every setting of the config: its type, what is allowed, its default and its meaning, once.

``generate.py`` writes ``config.schema.yaml`` and the tables of ``config/README.md`` from here. A
section that code holds as a class is declared by it (its fields are read like those below), and a
default that code needs is its constant. Nothing here is read when the pipeline runs.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from colport.base import declared
from colport.base.declared import Allowed, Count, Natural, Positive, Sizes
from colport.data import published
from colport.data.documents import PageSettings
from colport.export.folder import OPSET
from colport.families.reference.skeletons import PRECISIONS
from colport.measure.entrants import PYTORCH
from colport.measure.parity import Tolerance
from colport.peers.catalogue import PEERS
from colport.providers import PROVIDERS
from colport.providers import settings as providers
from colport.quantize.settings import BITS, QuantizeSettings
from colport.scoring import statistics
from colport.scoring.forms import Form
from colport.scoring.metrics import METRIC_NAMES
from colport.tables import recommendation
from colport.tensors.external_data import Layout
from colport.timing.server.settings import ScenarioSettings
from colport.timing.settings import LatencySettings

INLINE = Allowed(inline=True)
"""Marks a part whose keys stand in its section itself."""

Name = Annotated[str, Allowed(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$", title="name")]
Names = Annotated[tuple[Name, ...], Allowed(minItems=1, uniqueItems=True)]
Unique = Allowed(uniqueItems=True)
Text = Annotated[str, Allowed(minLength=1)]
File = Annotated[str, Allowed(minLength=1, title="path")]
HubId = Annotated[str, Allowed(pattern="^[^/]+/[^/]+$", title="Hub id")]
Revision = Annotated[
    str, Allowed(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$", title="commit, branch or tag")
]
Commit = Annotated[str, Allowed(pattern="^[0-9a-f]{40}$", title="commit")]
Share = Annotated[float, Allowed(minimum=0, maximum=1)]
OptionalCount = Annotated[int | None, Allowed(minimum=1)]
Digest = Annotated[str, Allowed(pattern="^[0-9a-f]{64}$", title="SHA-256")]


class Section(BaseModel):
    """A part of the config with keys of its own."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )


class Run(Section):
    """What runs, by name; everything below is only defined."""

    models: Names
    """Names under ``models``."""

    variants: Names = ("fp32", "int8")
    """Names under ``variants``, ready-made or your own; the base of a quantized one is added by
    itself."""

    providers: Names = ("cpu",)
    """Names under ``providers``: ``[cpu, cuda]`` with an NVIDIA GPU. One that the machine lacks
    gives rows with ``status: unsupported``."""

    embeddings: Annotated[tuple[Name, ...], Unique] = ()
    """Names under ``embeddings``: smaller forms that are scored too."""

    peers: Annotated[tuple[Annotated[str, Allowed(enum=PEERS)], ...], Unique] = ()
    """The same checkpoints exported by others, too, and measured beside our variants on ``cpu``, as
    ``peer-…``. See below."""

    allow_failed_parity: bool = False
    """``true``: a failed parity is shown but does not fail the run."""


class Base(Section):
    """What an adapter was trained on."""

    hub: HubId | None = None
    """As under ``checkpoint``."""

    revision: Revision | None = None
    """Goes with ``hub``."""

    path: File | None = None
    """A local folder."""


class Checkpoint(Section):
    """Where a checkpoint is: exactly one of ``hub``, ``path`` and ``package``."""

    hub: HubId | None = None
    """Only safetensors weights are fetched. Offline, the Hub's cache is read."""

    revision: Revision | None = None
    """Goes with ``hub``. A branch or tag is not reproducible: the log then names the commit to
    pin."""

    path: File | None = None
    """A local folder in the Hub's layout."""

    package: Annotated[str | None, Allowed(pattern="^[A-Za-z_][A-Za-z0-9_.]*$", title="module")] = (
        None
    )
    """An installed Python package."""

    folder: File | None = None
    """A folder inside ``package``."""

    base: Base | None = None
    """For a LoRA adapter: what it was trained on, by ``hub`` and ``revision`` or by ``path``. By
    default what its ``adapter_config.json`` names."""

    overlay: File | None = None
    """A folder whose files are laid over the checkpoint's: a projection, a prompt configuration."""

    sha256: dict[str, Digest] | None = None
    """File name to digest; another content is refused."""


class Published(Section):
    """Scores of this checkpoint that others published, on the datasets of one benchmark."""

    metric: Annotated[str, Allowed(enum=METRIC_NAMES)]
    """What they are. The gain of ``ndcg_at_…`` is linear, as in mteb; of ``ndcg_exp_at_10``
    exponential."""

    source: Text
    """Where they stand, in words or as an address."""

    scores: Annotated[dict[Name, Share], Allowed(minProperties=1)]
    """Names under ``datasets`` to scores. If the model runs on all of them, their mean is compared,
    too."""


class Model(Section):
    """A checkpoint, and what it is measured on."""

    family: Name
    """Name of a family, as ``colpali``; ``docs/models.md`` has all. Refused if the checkpoint's own
    files say otherwise."""

    checkpoint: Checkpoint
    """Where it is: exactly one of ``hub``, ``path`` and ``package``."""

    datasets: Names
    """Names under ``datasets``; the first one also serves parity and latency."""

    calibration: Name | None = None
    """The dataset that calibrates quantized variants; by default the first one."""

    published: dict[Name, Published] | None = None
    """Published scores to set beside the run's own, by names of benchmarks: see below. By default
    those that ColPort knows of a checkpoint on the Hub; ``{}`` for none."""


class Variant(Section):
    """A precision, and how it is made."""

    precision: Annotated[str, Allowed(enum=[*PRECISIONS, *BITS])]
    """``bf16`` is for GPUs: ONNX Runtime has no CPU kernels for it."""

    opset: Annotated[int, Allowed(enum=[21, 23, 24])] = OPSET
    """ONNX operator set: 24 writes attention, RMS norms and rotary embeddings as single operators,
    fastest on CPU; 23 does, too, with padded pages masked; 21 writes plain matrix products, for
    runtimes that do not know those. A quantized variant has its base's."""

    base: Name | None = None
    """For ``int8`` and ``int4``: the float variant that it is made from."""

    quantization: QuantizeSettings | None = None
    """For ``int8`` and ``int4``: see below. Without it ``int8`` gives each token and each output
    channel a scale of its own."""

    external_data: Layout | None = None
    """Where the weights lie."""

    tolerance: Tolerance | None = None
    """What parity allows; without either, parity only asks for finite values and equal shapes. The
    export of a float variant fails beyond it, too, on inputs that come with ColPort; without it,
    beyond that of the ready-made variant of its precision."""


def taken(key: str) -> Allowed:
    """What any of the providers takes for one of their own keys, by ``providers/table.toml``."""
    kinds = [provider.keys[key].kind for provider in PROVIDERS.values() if key in provider.keys]
    words = [word for kind in kinds if isinstance(kind, tuple) for word in kind]
    if all(isinstance(kind, tuple) for kind in kinds):
        return Allowed(enum=[*dict.fromkeys(words)])
    return Allowed(minimum=min(kind.start for kind in kinds))


class Provider(Section):
    """One way to run a graph."""

    type: Name | None = None
    """See above; by default the entry's name."""

    options: dict[str, Any] | None = None
    """ONNX Runtime's own options of the execution provider; names and values are checked."""

    common: Annotated[providers.Common, INLINE]

    fixed_shapes: providers.FixedShapes | None = None
    """Sizes to which a call is padded. What is longer than each, and pages of any size
    (``colqwen2``), stay as they are."""

    cuda_graph: bool = False
    """Calls of a fixed shape are captured once and replayed; brings ``fixed_shapes`` unless they
    are given."""

    tf32: bool = False
    """fp32 products with 10 bits of mantissa, as on Ampere and newer; not the default in PyTorch,
    either."""

    memory_limit_mb: Annotated[int | None, taken("memory_limit_mb")] = None
    """MiB of the device's memory that it may take."""

    device: Annotated[Any, Allowed(title="number or name")] = None
    """Number of the GPU; ``CPU``, ``GPU``, ``NPU`` … for ``openvino``; ``all``, ``cpu``,
    ``cpu-gpu``, ``cpu-neural-engine`` for ``coreml``."""

    precision: Annotated[str | None, taken("precision")] = None
    """What a fp32 graph may be computed in: ``bf16`` for ``tensorrt`` and ``migraphx``;
    ``accuracy`` (the graph's own) for ``openvino``."""

    engine_cache: File | None = None
    """Folder for compiled graphs."""


class DatasetSize(Section):
    """What a dataset on the Hub holds."""

    documents: Count
    """Pages or passages."""

    queries: Count
    """Queries of one language."""


class Dataset(Section):
    """What is scored: exactly one of ``hub``, ``path`` and ``documents_folder``."""

    hub: HubId | None = None
    """A dataset on the Hub; only the files of the split and language that are read are fetched.
    Offline, the Hub's cache is read."""

    revision: Commit | None = None
    """The commit of ``hub``."""

    size: DatasetSize | None = None
    """What a dataset on the Hub holds, for ``colport plan``: nothing else reads it. Other datasets
    are counted."""

    path: File | None = None
    """A local folder of parquet files in the same layout."""

    documents_folder: File | None = None
    """A folder of your own PDFs and images, see below."""

    from_: Name | None = Field(None, alias="from")
    """The name of another dataset: this one has its keys, but for those that it states itself."""

    schema_: Annotated[str | None, Allowed(enum=published.SCHEMAS)] = Field(None, alias="schema")
    """``qa`` (ViDoRe v1: ``query``, ``image``, ``image_filename``) or ``beir`` (``corpus``,
    ``queries``, ``qrels``); for models of captions ``captions`` (``image``, and a text or a list of
    them in ``captions``, ``caption``, ``sentences``, ``text`` or ``answer``) or ``answers``
    (``image``, ``question``, ``answers``)."""

    split: Text = published.SPLIT
    """The split that is read."""

    config: Text | None = None
    """Of captions or answers: the configuration that is read, where a dataset has several."""

    documents: Annotated[str, Allowed(enum=[*published.DOCUMENT_COLUMNS])] = "pages"
    """``pages`` (column ``image``) or ``passages`` (column ``text``, after ``title`` if there
    is one, as in BEIR and mteb)."""

    language: Text | None = None
    """Queries of one language only; needed where each language has tables of its own (ViDoRe
    v3)."""

    languages: Annotated[tuple[Text, ...] | None, Allowed(minItems=1, uniqueItems=True)] = None
    """The languages of the dataset; another ``language`` is refused."""

    limit: OptionalCount = None
    """Number of documents, the first ones; read are the queries whose relevant documents are all
    among them."""

    queries: File | None = None
    """A ``.csv``, ``.tsv`` or ``.jsonl`` file in UTF-8: columns ``query_id``, ``query`` and,
    optionally, ``language``."""

    judgements: File | None = None
    """Such a file with columns ``query_id``, ``document`` and, optionally, ``page`` and ``score``
    (a whole number up to 1000000, or false for 0 and true for 1; above 0 is relevant; 1 where there
    is no such column, and then no other column either). Names are found in either Unicode normal
    form. Leave it out if there are none: you still get rankings, and a recommendation by their
    agreement with PyTorch's; ``query_id`` is not needed then."""

    captions: File | None = None
    """In place of ``queries``, for models of captions: a ``.csv``, ``.tsv`` or ``.jsonl`` file in
    UTF-8. Columns ``picture`` (its path in the folder); ``caption`` or ``answer``, or ``captions``
    or ``answers`` with a list of them (in CSV and TSV as JSON); and, optionally, ``prompt`` or
    ``question``, which the model is given. A line a picture and prompt, no other columns."""

    prompt: Text | None = None
    """Of captions or answers: what the model is given beside each picture; ``{question}`` stands
    for the picture's own question or prompt."""

    pages: Annotated[PageSettings, INLINE]


class Peers(Section):
    """Others in the same run."""

    timeout_s: Positive = 3600
    """Seconds after which a program of a peer is ended and has failed."""


class Encode(Section):
    """How datasets are embedded."""

    batch_size: Count | None = None
    """Inputs of a batch when a dataset is embedded. By default those of like lengths share a batch,
    of up to 512 tokens on a CPU and 8192 elsewhere; PyTorch and peers take 8."""

    shard_documents: Count = 1024
    """Documents that one job embeds, in 1.1 GB of memory at 1030 tokens each; after an interruption
    only jobs that had not finished run again."""


class Reference(Section):
    """PyTorch."""

    memory_mb: Positive | None = None
    """MB (10**6 bytes) that a checkpoint may take in PyTorch. One that needs more is read from its
    files in each pass, one operator's weights at a time, over as many inputs as memory allows: the
    same embeddings, more slowly. It takes some 1500 MB and one page's activations at least. By
    default what is available: of the machine, of the job's control groups and of what the job asked
    for; for ``latency`` and ``scenarios`` what the variants leave of it."""


class Parity(Section):
    """Embeddings beside PyTorch's."""

    inputs: Count = declared.PARITY_INPUTS
    """Number of queries and of documents, the first ones of the model's first dataset."""

    batch_sizes: Sizes = declared.PARITY_BATCH_SIZES
    """Each is run, the worst counts."""


class Retrieval(Section):
    """Scores."""

    mteb: bool = False
    """``true``: mteb, too, runs every exported folder on every dataset; its result files are in
    ``results/mteb/``, its NDCG@5 beside ours in ``results/tables/mteb.csv``. It embeds everything
    again and needs ``pip install 'colport[mteb]'``, without which the rows are ``unsupported``."""

    resamples: Annotated[int, Allowed(minimum=100)] = statistics.RESAMPLES
    """Number of samples of the bootstrap intervals and the randomisation tests."""

    seed: Natural = statistics.SEED
    """Seed of these samples and of the shuffled baseline."""

    min_agreement: Annotated[float, Allowed(exclusiveMinimum=0, exclusiveMaximum=1)] = (
        recommendation.MIN_AGREEMENT
    )
    """Without judgements: the share of PyTorch's best documents that a variant's rankings must be
    known to keep, by the lower end of the interval, to be recommended. Changes no score."""


class Report(Section):
    """The page."""

    against: str = ""
    """Results folder of another run; the report then says what became slower, larger or worse
    since, and puts every figure beside that run's."""


class Latency(Section):
    """Timing."""

    timing: Annotated[LatencySettings, INLINE]

    pytorch: Annotated[tuple[Annotated[str, Allowed(enum=[*PYTORCH])], ...], Unique] = ()
    """Further ways to run PyTorch beside the fp32 reference; ``compile`` (``torch.compile``) needs
    a C++ compiler and takes a minute or more a model. Rows of ``latency.csv`` only, never
    recommended."""

    profile: bool = True
    """``true``: after the timed rounds, one query and one document in each variant under ONNX
    Runtime's profiler; operators and execution providers are in ``results/tables/operators.csv``
    and ``providers.csv`` and in the report. Takes seconds a variant."""


class Config(Section):
    """Schema of config.yaml."""

    run: Run
    """What runs."""

    models: dict[Name, Model]
    """Checkpoints by name."""

    variants: dict[Name, Variant]
    """Precisions by name."""

    providers: dict[Name, Provider]
    """Where it runs, by name."""

    datasets: dict[Name, Dataset]
    """What is scored, by name."""

    embeddings: dict[Name, Annotated[Form, Allowed(minProperties=1)]] = Field(default_factory=dict)
    """Smaller forms of what is stored, by name."""

    local_downloads: bool = False
    """``true``: on a cluster, checkpoints and datasets are fetched and checked where Snakemake
    runs, not in jobs ([docs/cluster.md](../docs/cluster.md))."""

    peers: Peers = Field(default_factory=Peers)

    reference: Reference = Field(default_factory=Reference)

    encode: Encode = Field(default_factory=Encode)

    parity: Parity = Field(default_factory=Parity)

    retrieval: Retrieval = Field(default_factory=Retrieval)
    """Statistics of the scores; see below."""

    latency: Latency = Field(default_factory=Latency)
    """How variants are timed; see below."""

    scenarios: ScenarioSettings = Field(default_factory=ScenarioSettings)
    """Single stream, offline and server; see below."""

    report: Report = Field(default_factory=Report)
