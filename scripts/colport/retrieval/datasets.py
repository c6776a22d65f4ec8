"""One loader for the forms in which retrieval datasets are published.

``qa`` is the form of the first ViDoRe benchmark: one table of (query, image, image_filename).
``beir`` is the form of the later ones and of text datasets: the configurations ``corpus``,
``queries`` and ``qrels``, with hyphenated (``corpus-id``) or underscored (``corpus_id``) ids.
Sources: Faysse et al., "ColPali", ICLR 2025; Macé et al., "ViDoRe benchmark V2", 2025.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colport.errors import ConfigError, DatasetError
from colport.retrieval.tables import INTEGERS, STRINGS, Pages, Table, config_names, load_table

if TYPE_CHECKING:
    from PIL.Image import Image

SCHEMAS = ("qa", "beir")
DOCUMENT_COLUMNS = {"pages": "image", "passages": "text"}
"""Kind of document to the column that holds it."""

CORPUS_ID = ("corpus-id", "corpus_id")
QUERY_ID = ("query-id", "query_id")

_KEYS = ("path", "hub", "revision", "schema", "split", "documents", "limit", "language")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, eq=False)
class RetrievalDataset:
    """Queries, documents and judgements.

    Attributes:
        name: Name of the dataset in the configuration.
        query_ids: One id a query, unique.
        queries: Text of each query.
        document_ids: One id a document, unique.
        documents: PIL RGB images (pages, each decoded when it is indexed) or strings (passages).
            Slices of it are lazy too.
        qrels: Query id to document id to an integer judgement; above 0 is relevant. Every id in it
            is in ``query_ids`` or ``document_ids``.
    """

    name: str
    query_ids: list[str]
    queries: list[str]
    document_ids: list[str]
    documents: Sequence[Image] | Sequence[str]
    qrels: dict[str, dict[str, int]]


def load_retrieval_dataset(name: str, declaration: Mapping[str, Any]) -> RetrievalDataset:
    """Read a dataset and check it as a whole, before anything is computed on it.

    Args:
        name: Name of the dataset in the configuration, used in messages.
        declaration: The configuration's entry: ``path`` (a local folder) or ``hub`` (a repository)
            with ``revision`` (a commit); ``schema`` (``qa`` or ``beir``); and optionally ``split``
            (default ``test``), ``documents`` (``pages``, the default, or ``passages``), ``limit``
            (the first documents only, with the queries whose relevant documents are all among
            them) and ``language`` (the queries in this language, or the configurations
            ``<language>-corpus``, ``<language>-queries`` and ``<language>-qrels``).

    Returns:
        The dataset. In ``qa`` form queries are deduplicated by text and null or blank ones
        dropped; a query's id is ``q`` and the row where its text stands first; documents are
        deduplicated by ``image_filename``, which is their id.

    Raises:
        ConfigError: The declaration itself is wrong.
        DatasetError: The data is missing or contradicts its schema or itself.
    """
    _check_declaration(name, declaration)
    folder = _folder(name, declaration)
    reader = {"qa": _read_qa, "beir": _read_beir}[declaration["schema"]]
    dataset = reader(name, folder, declaration)
    if limit := declaration.get("limit"):
        dataset = _first_documents(dataset, limit)
    if not any(score > 0 for judged in dataset.qrels.values() for score in judged.values()):
        scope = f" among the first {limit} documents" if limit else ""
        raise DatasetError(f"{name}: no query has a judgement above 0{scope}; one is needed.")
    return dataset


def _check_declaration(name: str, declaration: Mapping[str, Any]) -> None:
    def fail(key: str, found: object, allowed: str) -> None:
        raise ConfigError(f"datasets.{name}.{key}: found {found!r}; allowed is {allowed}.")

    for key in declaration:
        if key not in _KEYS:
            fail(key, declaration[key], f"one of the keys {', '.join(_KEYS)}")
    if ("path" in declaration) == ("hub" in declaration):
        fail("path", sorted({"path", "hub"} & set(declaration)), "exactly one of path and hub")
    revision = declaration.get("revision")
    if "hub" in declaration and not _COMMIT.fullmatch(str(revision)):
        fail("revision", revision, "a commit of 40 hexadecimal digits")
    if declaration.get("schema") not in SCHEMAS:
        fail("schema", declaration.get("schema"), " or ".join(SCHEMAS))
    if declaration.get("documents", "pages") not in DOCUMENT_COLUMNS:
        fail("documents", declaration["documents"], " or ".join(DOCUMENT_COLUMNS))
    limit = declaration.get("limit")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        fail("limit", limit, "a positive whole number")


def _folder(name: str, declaration: Mapping[str, Any]) -> Path:
    """The dataset's folder; one on the Hub is fetched whole, and read from the cache later."""
    if "path" in declaration:
        folder = Path(declaration["path"])
        if not folder.is_dir():
            raise DatasetError(f"{name}: folder {folder} does not exist.")
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    repository, revision = declaration["hub"], declaration["revision"]
    try:
        return Path(snapshot_download(repository, repo_type="dataset", revision=revision))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise DatasetError(
            f"{name}: {repository} at {revision} cannot be fetched from the Hub and is not in its "
            f"cache ({type(error).__name__})."
        ) from error


def _documents(table: Table, kind: str, rows: Sequence[int]) -> Sequence[Image] | list[str]:
    column = table.name(DOCUMENT_COLUMNS[kind])
    if kind == "pages":
        return Pages(table, column, rows)
    texts = table.values(column, STRINGS)
    return [texts[row] for row in rows]


def _in_language(table: Table, language: str | None) -> list[bool]:
    """Which rows of a table of queries are in a language; all of them if it is ``None``."""
    if language is None:
        return [True] * len(table.data)
    found = table.values(table.name("language"), STRINGS, nullable=True)
    if language not in found:
        allowed = ", ".join(sorted({value for value in found if value is not None}))
        raise DatasetError(f"{table.label}: no query is in {language!r}; found {allowed}.")
    return [value == language for value in found]


def _read_qa(name: str, folder: Path, declaration: Mapping[str, Any]) -> RetrievalDataset:
    table = load_table(name, folder, None, declaration.get("split", "test"))
    texts = table.values(table.name("query"), STRINGS, nullable=True)
    file_names = table.values(table.name("image_filename"), STRINGS)
    asked = _in_language(table, declaration.get("language"))
    first_rows: dict[str, int] = {}
    query_ids: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for row, (text, file_name) in enumerate(zip(texts, file_names, strict=True)):
        first_rows.setdefault(file_name, row)
        if asked[row] and text is not None and text.strip():
            query_id = query_ids.setdefault(text, f"q{row}")
            qrels.setdefault(query_id, {})[file_name] = 1
    rows = list(first_rows.values())
    documents = _documents(table, declaration.get("documents", "pages"), rows)
    return RetrievalDataset(
        name, list(query_ids.values()), list(query_ids), list(first_rows), documents, qrels
    )


def _read_beir(name: str, folder: Path, declaration: Mapping[str, Any]) -> RetrievalDataset:
    split, language = declaration.get("split", "test"), declaration.get("language")
    available = config_names(name, folder)
    prefix = f"{language}-" if f"{language}-corpus" in available else ""
    configs = [prefix + config for config in ("corpus", "queries", "qrels")]
    for config in configs:
        if config not in available:
            raise DatasetError(
                f"{name}: config {config} is missing; found {', '.join(available)}, "
                f"needed are {', '.join(configs)}."
            )
    corpus, queries, judgements = (load_table(name, folder, config, split) for config in configs)
    document_ids = corpus.ids(corpus.name(*CORPUS_ID), unique=True)
    query_ids = queries.ids(queries.name(*QUERY_ID), unique=True)
    texts = queries.values(queries.name("query"), STRINGS)
    qrels = _read_qrels(judgements, query_ids, document_ids)
    asked = _in_language(queries, None if prefix else language)
    kept = [row for row, wanted in enumerate(asked) if wanted]
    documents = _documents(corpus, declaration.get("documents", "pages"), range(len(document_ids)))
    return _with_queries(
        RetrievalDataset(name, query_ids, texts, document_ids, documents, qrels), kept
    )


def _read_qrels(
    table: Table, query_ids: Sequence[str], document_ids: Sequence[str]
) -> dict[str, dict[str, int]]:
    columns = (table.name(*QUERY_ID), table.name(*CORPUS_ID))
    scores = table.values(table.name("score"), INTEGERS)
    known = (set(query_ids), set(document_ids))
    qrels: dict[str, dict[str, int]] = {}
    pairs = zip(*(table.ids(column) for column in columns), strict=True)
    for row, pair in enumerate(pairs):
        for column, name, allowed, kind in zip(
            columns, pair, known, ("queries", "documents"), strict=True
        ):
            if name not in allowed:
                raise DatasetError(
                    f"{table.label}: column {column} in row {row} names {name!r}, which is none "
                    f"of the {len(allowed)} {kind}."
                )
        query, document = pair
        if qrels.setdefault(query, {}).setdefault(document, scores[row]) != scores[row]:
            raise DatasetError(
                f"{table.label}: row {row} judges query {query!r} and document {document!r} as "
                f"{scores[row]}, an earlier row as {qrels[query][document]}; only one is allowed."
            )
    return qrels


def _first_documents(dataset: RetrievalDataset, limit: int) -> RetrievalDataset:
    """The first documents, with the queries whose relevant documents are all among them."""
    document_ids = dataset.document_ids[:limit]
    kept = set(document_ids)
    relevant = [
        {name for name, score in dataset.qrels.get(query, {}).items() if score > 0}
        for query in dataset.query_ids
    ]
    rows = [row for row, names in enumerate(relevant) if names and names <= kept]
    qrels = {
        query: {name: score for name, score in judged.items() if name in kept}
        for query, judged in dataset.qrels.items()
    }
    documents = dataset.documents[:limit]
    limited = replace(dataset, document_ids=document_ids, documents=documents, qrels=qrels)
    return _with_queries(limited, rows)


def _with_queries(dataset: RetrievalDataset, rows: Sequence[int]) -> RetrievalDataset:
    query_ids = [dataset.query_ids[row] for row in rows]
    return replace(
        dataset,
        query_ids=query_ids,
        queries=[dataset.queries[row] for row in rows],
        qrels={query: dataset.qrels[query] for query in query_ids if query in dataset.qrels},
    )
