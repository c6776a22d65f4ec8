"""What the rules read from the config: names to run, settings of a job, code hashes."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from colport import families
from colport.base.errors import ColPortError, ConfigError
from colport.base.files import file_state, read_json, visible_files
from colport.base.foreign import local
from colport.base.names import FULL, PEER_PREFIX, is_peer
from colport.data.datasets import check_declaration
from colport.hub import checkpoints
from colport.peers import catalogue as peers
from colport.pipeline import config as configuration
from colport.pipeline import needs, sources
from colport.providers import ProviderSettings
from colport.providers.integers import promising
from colport.quantize.settings import QuantizeSettings
from colport.scoring.controls import CONTROLS
from colport.scoring.embed import shard_count

SCHEMA = "config/schemas/config.schema.yaml"
_PATHS = ("path", "overlay", "documents_folder", "queries", "judgements", "python")
TABLES = (
    *("summary", "export", "parity", "retrieval", "latency"),
    *("retrieval_intervals", "retrieval_queries", "parity_inputs", "stages"),
)


@dataclass(frozen=True)
class Plan:
    """A validated config, as the rules ask for it.

    Attributes:
        config: The config with defaults.
        base: Folder of the Snakefile.
    """

    config: Mapping[str, Any]
    base: Path

    @classmethod
    def read(cls, config: Mapping[str, Any], base: Path | str) -> Plan:
        """Validate the config; a mistake ends the program with its one sentence."""
        try:
            refuse_braces(base)
            filled = configuration.validated(config, Path(base) / SCHEMA)
            for section in ("models", "datasets", "providers"):
                filled[section] = located(filled[section], Path(base))
            for name, entry in filled["providers"].items():
                entry.setdefault("type", name)
                ProviderSettings.from_config(name, entry)
            check_documents(filled)
            check_quantization(filled)
            check_names(filled)
            return cls(filled, Path(base))
        except ColPortError as error:
            print(f"error in the config: {error}", file=sys.stderr)
            sys.exit(1)

    @property
    def models(self) -> list[str]:
        """Models to run."""
        return self.config["run"]["models"]

    @property
    def variants(self) -> list[str]:
        """Variants to run, and the bases that they are made from."""
        chosen = self.config["run"]["variants"]
        bases = [self.config["variants"][name].get("base") for name in chosen]
        return list(dict.fromkeys([*chosen, *(base for base in bases if base)]))

    @property
    def peers(self) -> list[str]:
        """Variants of the peers to run; on CPUs only."""
        return peers.of(self.config["run"]["peers"])

    def entrants(self, provider: str | None = None) -> list[str]:
        """Variants to run, and those of peers, on a provider or on any."""
        return [*self.variants, *(self.peers if provider in (None, "cpu") else [])]

    def runs(self) -> list[tuple[str, str]]:
        """Every variant with each provider that it runs on."""
        return [(name, on) for on in self.providers for name in self.entrants(on)]

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

    @property
    def quantized(self) -> list[str]:
        """Variants that are made from another variant's folder."""
        return [name for name in self.variants if "base" in self.config["variants"][name]]

    @property
    def exported(self) -> list[str]:
        """Variants that are traced from the checkpoint."""
        return [name for name in self.variants if name not in self.quantized]

    @property
    def providers(self) -> list[str]:
        """Providers to run on."""
        return self.config["run"]["providers"]

    @property
    def datasets(self) -> list[str]:
        """Datasets that the models to run are scored on."""
        return list(dict.fromkeys(name for model in self.models for name in self.of(model)))

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables."""
        mteb = ("mteb",) if self.config["retrieval"]["mteb"] else ()
        operators = ("operators", "providers") if self.config["latency"]["profile"] else ()
        scenarios = ("scenarios",) if self.config["scenarios"]["run"] else ()
        return (*TABLES, *mteb, *operators, *scenarios)

    @property
    def controls(self) -> tuple[str, ...]:
        """Baselines that every dataset is scored with."""
        return CONTROLS

    @property
    def scoring(self) -> dict[str, Any]:
        """Settings of a score; whether mteb scores too changes none of it."""
        return {key: value for key, value in self.config["retrieval"].items() if key != "mteb"}

    @property
    def timing(self) -> dict[str, Any]:
        """Settings of the timed rounds; whether operators are profiled after them changes none."""
        return {key: value for key, value in self.config["latency"].items() if key != "profile"}

    @property
    def forms(self) -> dict[str, dict[str, Any]]:
        """Smaller forms of embeddings that are scored beside the full ones."""
        return {name: self.config["embeddings"][name] for name in self.config["run"]["embeddings"]}

    def shards(self, dataset_record: Path | str, first: int | None = None) -> range:
        """Numbers of the shards with all documents of a dataset's record, or the first ones."""
        documents = read_json(dataset_record)["counts"]["documents"]
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

    def pairs(self) -> list[tuple[str, str]]:
        """Every model with each of its datasets."""
        return [(model, dataset) for model in self.models for dataset in self.of(model)]

    @property
    def explained(self) -> list[tuple[str, str]]:
        """Every model of pages with the dataset that its scores are explained on."""
        read = {model: self.config["models"][model]["family"] for model in self.models}
        pages = [model for model in read if families.get(read[model]).document_type == "pages"]
        return [(model, self.first(model)) for model in pages]

    def local_files(self, declaration: Mapping[str, Any]) -> list[str]:
        """Files of this machine that a checkpoint or dataset is read from.

        Raises:
            ConfigError: Snakemake cannot take the path of one.
        """
        own = (declaration.get(key) for key in ("queries", "judgements"))
        files = [str(local(file)) for file in own if file]
        folders = checkpoints.places(declaration)
        files += [str(file) for folder in folders for file in visible_files(folder)]
        for file in files:
            refuse_braces(file)
        return files

    def fingerprint(self, declaration: Mapping[str, Any]) -> str:
        """Hash of where these files lie, of their sizes and times; see :func:`file_state`.

        As a parameter of a rule it reruns it for whatever else is at a path now, older or not.
        """
        facts = []
        for file in self.local_files(declaration):
            with suppress(FileNotFoundError):  # its job says so
                facts.append((file, file_state(file)))
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    def script(self, name: str) -> dict[str, str]:
        """Parameters of a rule: its adapter in ``scripts/``, and the hash of what that can run."""
        return {"script": name, "code": sources.code_hash(self.base / "scripts" / name)}

    def needs(self, stage: str) -> dict[str, Callable[..., int]]:
        """Memory and run time that a stage's jobs ask a cluster for."""
        return needs.needs(self.config, stage)

    @staticmethod
    def pattern(names: Iterable[str]) -> str:
        """Wildcard constraint that matches just these names."""
        return "|".join(re.escape(name) for name in names) or "(?!)"


def refuse_braces(path: Path | str) -> None:
    """Refuse a path in which Snakemake would look for names.

    Raises:
        ConfigError: It holds a brace.
    """
    if set("{}") & set(str(path)):
        raise ConfigError(
            f"{path}: Snakemake takes braces in a path for names; give the file or its folder "
            "another one."
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


def check_documents(config: Mapping[str, Any]) -> None:
    """Each dataset's entry is sound, and a model's hold what its family reads: pages or passages.

    Raises:
        ConfigError: An entry contradicts itself, a family is unknown, or a dataset holds the other.
    """
    for name, declaration in config["datasets"].items():
        check_declaration(name, declaration)
    for name, model in config["models"].items():
        calibration = [model["calibration"]] if "calibration" in model else []
        try:
            needed = families.get(model["family"]).document_type
        except ConfigError as error:
            raise ConfigError(f"models.{name}.{error}") from error
        for index, dataset in enumerate([*model["datasets"], *calibration]):
            found = config["datasets"][dataset].get("documents", "pages")
            if found != needed:
                field = f"datasets[{index}]" if index < len(model["datasets"]) else "calibration"
                raise ConfigError(
                    f"models.{name}.{field}: {dataset!r} holds {found}, "
                    f"family {model['family']} reads {needed}."
                )


def check_quantization(config: Mapping[str, Any]) -> None:
    """The settings of each quantized variant go together, and with the providers that run it.

    Raises:
        ConfigError: They contradict each other.
    """
    kinds = {name: config["providers"][name]["type"] for name in config["run"]["providers"]}
    unable = [name for name, kind in kinds.items() if kind not in promising()]
    for name, variant in config["variants"].items():
        if "base" not in variant:
            continue
        try:
            settings = QuantizeSettings.from_config(variant)
        except ConfigError as error:
            raise ConfigError(f"variants.{name}.{error}") from error
        if unable and name in config["run"]["variants"] and not settings.is_exact:
            raise ConfigError(
                f"variants.{name}.quantization.range: found full, whose sums may saturate on "
                f"provider {unable[0]!r}; allowed are exact, or providers of type "
                f"{' and '.join(promising())} only."
            )


def check_names(config: Mapping[str, Any]) -> None:
    """No variant is called as those of peers are in the tables, no form as the full embeddings.

    Raises:
        ConfigError: One is.
    """
    if FULL in config["embeddings"]:
        raise ConfigError(f"embeddings.{FULL}: stands for what a model gives; choose another name.")
    for name in config["variants"]:
        if is_peer(name):
            raise ConfigError(
                f"variants.{name}: names that start with {PEER_PREFIX!r} are those of peers; "
                "choose another name."
            )
