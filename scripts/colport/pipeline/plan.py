"""What the rules read from the config: names to run, settings of a job, code hashes."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from colport.base.errors import ColPortError, ConfigError
from colport.base.files import read_json, state_hash, visible_files
from colport.base.foreign import local, refuse_not_text
from colport.base.names import FULL, PEER_PREFIX, is_peer
from colport.data.datasets import check_declaration, holds, look
from colport.families import registry
from colport.hub import checkpoints
from colport.peers import catalogue as peers
from colport.pipeline import config as configuration
from colport.pipeline import defaults, needs, published, sources
from colport.providers import ProviderSettings
from colport.providers.integers import promising
from colport.quantize.settings import QuantizeSettings
from colport.scoring.controls import CONTROLS
from colport.scoring.embed import shard_count

SCHEMA = "config/schemas/config.schema.yaml"
_NAMES = re.compile(r"[{}]|<[a-z][a-z0-9_]*>")
_KINDS = dict.fromkeys(("path", "overlay", "documents_folder", "against"), "folder")
_FILES = ("queries", "judgements", "captions")
_KINDS |= dict.fromkeys(_FILES, "file")
_PATHS = (*_KINDS, "python")
CAPTION_TABLES = ("captions", "caption_intervals", "caption_items")
TABLES = (
    *("summary", "export", "parity", "retrieval", "latency"),
    *("retrieval_intervals", "retrieval_queries", "parity_inputs", "stages"),
)


class Plan:
    """A validated config, as the rules ask for it.

    Attributes:
        config: The config with defaults.
        base: Folder of the Snakefile.
        models: Models to run.
        captioners: Those of them that generate texts about pictures; the others are retrievers.
        pairs: Every model with each of its datasets.
        ranked: Those of retrievers.
        sizes: What a dataset's entry says of its size; ``config`` has it no more.
        published: Published scores to set beside those of the models to run, by model; those that
            an entry states ``config`` has no more.
        datasets: Datasets that the models to run are scored on.
        variants: Variants to run, and the bases that they are made from.
        quantized: Those of them that are made from another variant's folder.
        exported: Those that are traced from the checkpoint.
        peers: Variants of the peers to run; on CPUs only.
        providers: Providers to run on.
        runs: Every variant with each provider that it runs on.
        controls: Baselines that every dataset is scored with.
        forms: Smaller forms of embeddings that are scored beside the full ones.
        explained: Every model of pages with the dataset that its scores are explained on.
        scoring: Settings of a score; whether mteb scores too, and what is recommended, change none
            of it.
        timing: Settings of the timed rounds; whether operators are profiled after them changes
            none.
        tables: Names of the tables.
    """

    def __init__(self, config: Mapping[str, Any], base: Path) -> None:
        self.config, self.base = config, base
        # Taken out of it, so that no job runs again for it.
        self.sizes = {name: entry.pop("size", None) for name, entry in config["datasets"].items()}
        models = config["models"]
        stated = {name: entry.pop("published", None) for name, entry in models.items()}
        run, variants = config["run"], config["variants"]
        self.models, self.providers = run["models"], run["providers"]
        self.published = {
            name: published.beside(stated[name], models[name], config["datasets"], base)
            for name in self.models
        }
        reads = {name: registry.get(models[name]["family"]).reads for name in self.models}
        self.captioners = [name for name in self.models if reads[name] == "captions"]
        self.retrievers = [name for name in self.models if reads[name] != "captions"]
        self.pairs = [(model, dataset) for model in self.models for dataset in self.of(model)]
        self.ranked = [pair for pair in self.pairs if pair[0] in self.retrievers]
        self.datasets = list(dict.fromkeys(dataset for _, dataset in self.pairs))
        bases = (variants[name].get("base") for name in run["variants"])
        self.variants = list(dict.fromkeys([*run["variants"], *filter(None, bases)]))
        self.quantized = [name for name in self.variants if "base" in variants[name]]
        self.exported = [name for name in self.variants if name not in self.quantized]
        self.peers = peers.of(run["peers"])
        self.runs = [(name, on) for on in self.providers for name in self.entrants(on)]
        self.controls = CONTROLS
        self.forms = {name: config["embeddings"][name] for name in run["embeddings"]}
        pages = [model for model in self.models if reads[model] == "pages"]
        self.explained = [(model, self.first(model)) for model in pages]
        self.scoring, self.timing = {**config["retrieval"]}, {**config["latency"]}
        self.scoring.pop("min_agreement", None)
        ranks, profiles = self.scoring.pop("mteb"), self.timing.pop("profile")
        mteb = ("mteb",) if ranks and self.retrievers else ()
        operators = ("operators", "providers") if profiles and self.retrievers else ()
        scenarios = ("scenarios",) if config["scenarios"]["run"] and self.retrievers else ()
        forms = ("embeddings",) if self.forms else ()
        beside = ("published",) if any(self.published.values()) else ()
        captions = CAPTION_TABLES if self.captioners else ()
        self.tables = (*TABLES, *captions, *beside, *forms, *mteb, *operators, *scenarios)

    @classmethod
    def read(cls, config: Mapping[str, Any], base: Path | str, *, is_job: bool = False) -> Plan:
        """Complete and check a config; a mistake ends the program with its one sentence.

        Args:
            config: What the user states, as Snakemake has it.
            base: Folder of the Snakefile.
            is_job: Whether this is a job's own process: the main one has looked at all the files
                that checkpoints and datasets are read from, unless jobs have others.
        """
        try:
            plan = cls.checked(config, base)
            if not is_job:
                plan.look()
            return plan
        except ColPortError as error:
            print(f"error in the config: {error}", file=sys.stderr)
            sys.exit(1)

    @classmethod
    def load(cls, files: Iterable[Path | str], base: Path | str = defaults.ROOT) -> Plan:
        """What ``snakemake --configfile FILES`` would run in the working directory.

        Raises:
            ColPortError: A config file cannot be read, or has a mistake; :meth:`look` finds what is
                wrong with the files that it names.
        """
        return cls.checked(defaults.stated(files, base), base)

    @classmethod
    def checked(cls, config: Mapping[str, Any], base: Path | str) -> Plan:
        """As :meth:`read`, without an end of the program and a look at the files it names.

        Raises:
            ColPortError: The config has a mistake.
        """
        refuse_names(base)
        for place in (base, Path.cwd()):
            refuse_not_text(place)
        filled = configuration.validated(defaults.complete(config, base), Path(base) / SCHEMA)
        for section in ("models", "datasets", "providers"):
            filled[section] = located(filled[section], Path(base))
        check(filled)
        return cls(filled, Path(base))

    def look(self) -> None:
        """Find mistakes that a glance at the files of checkpoints and datasets shows.

        Raises:
            ColPortError: A file or folder is missing, of another form or family, or at a place that
                Snakemake cannot take.
        """
        _check_places("report", self.config["report"])
        for name in dict.fromkeys((*self.datasets, *map(self.calibration, self.models))):
            field, declaration = f"datasets.{name}", self.config["datasets"][name]
            files = local_files(declaration)
            _check_places(field, declaration)
            look(field, declaration, files)
        for name in self.models:
            field, model = f"models.{name}.checkpoint", self.config["models"][name]
            local_files(model["checkpoint"])
            _check_places(field, model["checkpoint"])
            with tempfile.TemporaryDirectory() as scratch, _told_of(f"{field}: ", scratch):
                if folder := checkpoints.look(model["checkpoint"], Path(scratch, "checkpoint")):
                    registry.require(model["family"], folder)

    def entrants(self, provider: str | None = None) -> list[str]:
        """Variants to run, and those of peers, on a provider or on any."""
        return [*self.variants, *(self.peers if provider in (None, "cpu") else [])]

    def folder(self, model: str, variant: str) -> str:
        """Where a variant's folder lies, ours or a peer's."""
        return f"results/{'peers' if is_peer(variant) else 'models'}/{model}/{variant}"

    def tolerance(self, variant: str) -> Mapping[str, float]:
        """What a variant may lose, ours or a peer's."""
        if is_peer(variant):
            return dict(peers.get(variant).tolerance)
        return self.config["variants"][variant].get("tolerance", {})

    def peer_inputs(self, model: str, variant: str) -> dict[str, str]:
        """What a peer's export starts from, besides the checkpoint."""
        peer = peers.get(variant)
        inputs = {}
        if peer.environment:
            inputs["environment"] = f".peers/{peer.environment}.json"
        if peer.base:
            inputs["base"] = self.folder(model, peer.base)
        return inputs

    def shards(self, dataset_record: Path | str, first: int | None = None) -> range:
        """Numbers of the shards with all of a dataset's record, or its first documents."""
        record = read_json(dataset_record)
        documents = record["counts"]["queries" if record.get("references") else "documents"]
        needed = min(documents, first or documents)
        return range(shard_count(needed, self.config["encode"]["shard_documents"]))

    def of(self, model: str) -> list[str]:
        """Datasets of one model."""
        return self.config["models"][model]["datasets"]

    def first(self, model: str) -> str:
        """The dataset whose inputs serve parity and latency."""
        return self.of(model)[0]

    def limiting(self, dataset: str) -> list[str]:
        """Families that read a dataset, and may not take every page and query.

        Of all models that are defined: which of them run decides nothing about a dataset.
        """
        models = self.config["models"]
        readers = [name for name in models if dataset in (*self.of(name), self.calibration(name))]
        return sorted({models[name]["family"] for name in readers})

    def calibration(self, model: str) -> str:
        """The dataset whose inputs calibrate its quantized variants."""
        return self.config["models"][model].get("calibration", self.first(model))

    def is_calibrated(self, variant: str) -> bool:
        """Whether a quantized variant needs calibration inputs."""
        return QuantizeSettings.from_config(self.config["variants"][variant]).is_calibrated

    def script(self, name: str) -> dict[str, str]:
        """Parameters of a rule: its adapter in ``scripts/``, and the hash of what that can run."""
        return {"script": name, "code": sources.code_hash(self.base / "scripts" / name)}

    def scripts(self, retrieval: str, captioning: str) -> dict[str, Callable[[Any], str]]:
        """As :meth:`script`, of a rule whose adapter depends on the model's task."""
        found = self.script(retrieval), self.script(captioning)

        def of(key: str) -> Callable[[Any], str]:
            return lambda wildcards: found[wildcards.model in self.captioners][key]

        return {key: of(key) for key in found[0]}

    def needs(self, stage: str) -> dict[str, Callable[..., int]]:
        """Memory and run time that a stage's jobs ask a cluster for."""
        return needs.needs(self.config, stage)

    @staticmethod
    def pattern(names: Iterable[str]) -> str:
        """Wildcard constraint that matches just these names."""
        return "|".join(re.escape(name) for name in names) or "(?!)"


def local_files(declaration: Mapping[str, Any]) -> list[str]:
    """Files of this machine that a checkpoint or dataset is read from.

    Raises:
        ConfigError: Snakemake cannot take the path of one, or this run's results lie among them.
    """
    files = [str(local(file)) for file in map(declaration.get, _FILES) if file]
    folders = checkpoints.places(declaration)
    for place in (*files, *folders):
        real = os.path.realpath(place)
        refuse_not_text(real)
        if Path("results").resolve().is_relative_to(real):
            raise ConfigError(
                f"{place}: holds this run's results/; run elsewhere, or name less of it."
            )
    files += [str(file) for folder in folders for file in visible_files(folder)]
    for file in files:
        refuse_names(file)
    return files


def fingerprint(declaration: Mapping[str, Any]) -> str:
    """Hash of where these files lie, of their sizes and times; see :func:`state_hash`.

    As a parameter of a rule it reruns it for whatever else is at a path now, older or not.
    """
    return state_hash(local_files(declaration))


def refuse_names(path: Path | str) -> None:
    """Refuse a path in which Snakemake would look for names.

    Raises:
        ConfigError: It holds a brace, or a word in angle brackets.
    """
    if _NAMES.search(str(path)):
        raise ConfigError(
            f"{path}: Snakemake takes braces and <words> in a path for names; give the file or its "
            "folder another one."
        )


def located(value: Any, base: Path) -> Any:
    """A part of the config with its paths as jobs find them.

    A relative path is looked for in the working directory, then beside the Snakefile; ``~`` is the
    user's home.
    """
    if not isinstance(value, Mapping):
        return value
    found = {}
    for key, item in value.items():
        if key in _PATHS and isinstance(item, str):
            here, beside = local(item), base / item
            found[key] = str(beside if not here.exists() and beside.exists() else here)
        else:
            found[key] = located(item, base)
    return found


def check(config: Mapping[str, Any]) -> None:
    """What the schema cannot say of datasets, families, providers, quantization and names.

    Each dataset's entry is sound, and a model's hold what its family reads: pages or passages. Each
    provider's type takes the settings of its entry. The settings of each quantized variant go
    together, and with the providers that run it. No form of embeddings and no variant is called as
    others are in the tables.

    Raises:
        ConfigError: Something of it does not hold.
    """
    for name, declaration in config["datasets"].items():
        check_declaration(name, declaration)
    for name, model in config["models"].items():
        with _told_of(f"models.{name}."):
            needed = registry.get(model["family"]).reads
        for field, dataset in configuration.datasets_of(model).items():
            found = holds(config["datasets"][dataset])
            if found != needed:
                raise ConfigError(
                    f"models.{name}.{field}: {dataset!r} holds {found}, "
                    f"family {model['family']} reads {needed}."
                )
        if needed == "captions" and name in config["run"]["models"] and config["run"]["peers"]:
            raise ConfigError(f"run.peers: no peer exports a captioner; found model {name!r}.")
    for name, variant in config["variants"].items():
        if "base" in variant:
            _check_quantized(name, variant, config)
    for name, entry in config["providers"].items():
        ProviderSettings.from_config(name, entry)
    if FULL in config["embeddings"]:
        raise ConfigError(f"embeddings.{FULL}: stands for what a model gives; choose another name.")
    if taken := [name for name in config["variants"] if is_peer(name)]:
        raise ConfigError(
            f"variants.{taken[0]}: names that start with {PEER_PREFIX!r} are those of peers; "
            "choose another name."
        )


def _check_places(field: str, entry: Mapping[str, Any]) -> None:
    """Refuse a path at which there is no folder or file."""
    for key, item in entry.items():
        if isinstance(item, Mapping):
            _check_places(f"{field}.{key}", item)
        elif item and (kind := _KINDS.get(key)):
            place = local(item).absolute()
            if not (place.is_dir() if kind == "folder" else place.is_file()):
                raise ConfigError(f"{field}.{key}: there is no {kind} {str(place)!r}.")


@contextmanager
def _told_of(field: str, scratch: str = "\0") -> Iterator[None]:
    """Begin what is wrong with the field's name, and leave out a folder that nobody else sees."""
    try:
        yield
    except ColPortError as error:
        raise ConfigError(field + str(error).replace(f"{scratch}/", "")) from error


def _check_quantized(name: str, variant: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    with _told_of(f"variants.{name}."):
        settings = QuantizeSettings.from_config(variant)
    kinds = {name: config["providers"][name]["type"] for name in config["run"]["providers"]}
    unable = [name for name, kind in kinds.items() if kind not in promising()]
    if unable and name in config["run"]["variants"] and not settings.is_exact:
        raise ConfigError(
            f"variants.{name}.quantization.range: found full, whose sums may saturate on "
            f"provider {unable[0]!r}; allowed are exact, or providers of type "
            f"{' and '.join(promising())} only."
        )
