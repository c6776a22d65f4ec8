"""The forms in which datasets are published, as parquet files.

``qa`` is the form of the first ViDoRe benchmark: one table of (query, image, image_filename).
``beir`` is the form of the later ones and of text datasets: the configurations ``corpus``,
``queries`` and ``qrels``, with hyphenated (``corpus-id``) or underscored (``corpus_id``) ids, or
mteb's ``<language>-corpus``, ``<language>-queries`` and ``<language>-qrels``.
``captions`` and ``answers`` are those of pictures with their captions or lines (COCO, IAM), or with
questions and answers (DocVQA): one table of (image, captions) or (image, question, answers).
Sources: Faysse et al., "ColPali", ICLR 2025; Macé et al., "ViDoRe benchmark V2", 2025; Loison et
al., "ViDoRe V3", 2026; mteb's ``RetrievalDatasetLoader``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL.Image import Image

from colport.base.errors import DatasetError
from colport.data.base import RetrievalDataset, in_language
from colport.data.captions import ANSWER
from colport.data.judgements import QUERY, SCORE, Row, judged
from colport.data.repositories import Repository
from colport.data.rows import SCORES, STRINGS, Pages, Table, load_table

SPLIT = "test"
CAPTIONS = {"captions": ("captions", "caption", "sentences", "text", "answer"), "answers": ANSWER}
"""Schema of pictures to the columns of their references: a text, or a list of them."""
DOCUMENT_COLUMNS = {"pages": "image", "passages": "text"}
"""Kind of document to the column that holds it."""

CORPUS_ID = ("corpus-id", "corpus_id", "_id", "id")
QUERY_ID = ("query-id", "query_id", "_id", "id")
PAGE_TEXT = ("text", "markdown", "text_description")
"""Columns that hold a page's text."""
TITLE = "title"
"""Column that BEIR and mteb put before a passage's text."""


def read_published(name: str, declaration: Mapping[str, Any]) -> RetrievalDataset:
    """Read a dataset from the Hub, its cache or a local folder.

    Args:
        name: Name of the dataset, for messages.
        declaration: See :func:`colport.data.datasets.load_retrieval_dataset`.

    Raises:
        DatasetError: The data is missing or contradicts its schema or itself.
    """
    return _READERS[declaration["schema"]](Repository.open(name, declaration), declaration)


def _documents(
    table: Table, declaration: Mapping[str, Any], rows: Sequence[int]
) -> tuple[Sequence[Image] | list[str], list[str] | None]:
    """Documents and their texts."""
    kind = declaration.get("documents", "pages")
    column = table.name(DOCUMENT_COLUMNS[kind])
    if kind == "pages":
        texts = table.texts(*PAGE_TEXT)
        return Pages(table, column, rows), texts and [texts[row] for row in rows]
    titles, texts = table.texts(TITLE), table.values(column, STRINGS)
    if titles:
        pairs = zip(titles, texts, strict=True)
        texts = [f"{title} {text}".strip() if title else text for title, text in pairs]
    passages = [texts[row] for row in rows]
    return passages, passages


def _in_language(
    table: Table, declaration: Mapping[str, Any]
) -> tuple[list[bool], tuple[str, ...]]:
    """Which rows of a table of queries are in the chosen language, and the languages kept."""
    language, declared = declaration.get("language"), declaration.get("languages", [])
    if "language" not in table.data.column_names and (language is None or [language] == declared):
        return [True] * len(table.data), tuple(declared)
    found = table.values(table.name("language"), STRINGS, nullable=True)
    return in_language(table.label, found, language)


def _read_qa(repository: Repository, declaration: Mapping[str, Any]) -> RetrievalDataset:
    table = load_table(repository, None, declaration.get("split", SPLIT))
    texts = table.values(table.name("query"), STRINGS, nullable=True)
    file_names = table.values(table.name("image_filename"), STRINGS)
    asked, languages = _in_language(table, declaration)
    first_rows: dict[str, int] = {}
    query_ids: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    repeated: list[tuple[str, int, int]] = []
    for row, (text, file_name) in enumerate(zip(texts, file_names, strict=True)):
        if (first := first_rows.setdefault(file_name, row)) != row:
            repeated.append((file_name, first, row))
        if asked[row] and text is not None and text.strip():
            query_id = query_ids.setdefault(text, f"q{row}")
            qrels.setdefault(query_id, {})[file_name] = 1
    documents, page_texts = _documents(table, declaration, list(first_rows.values()))
    _check_same(table, declaration, repeated)
    ids = list(query_ids.values()), list(query_ids), list(first_rows)
    return RetrievalDataset(repository.name, *ids, documents, qrels, page_texts, languages)


def _check_same(
    table: Table, declaration: Mapping[str, Any], rows: Sequence[tuple[str, int, int]]
) -> None:
    """Rows of one ``image_filename`` hold one document.

    Raises:
        DatasetError: Two hold different ones, of which one would be lost.
    """
    if not rows:
        return
    documents, _ = _documents(table, declaration, range(len(table.data)))
    same = documents.are_same if isinstance(documents, Pages) else None
    for name, first, row in rows:
        if not (same(first, row) if same else documents[first] == documents[row]):
            raise DatasetError(
                f"{table.label}: column image_filename has {name!r} in rows {first} and {row}, "
                "whose documents differ; a name stands for one document."
            )


def _read_beir(repository: Repository, declaration: Mapping[str, Any]) -> RetrievalDataset:
    prefix = _language_prefix(repository, declaration.get("language"))
    configs = [prefix + config for config in ("corpus", "queries", "qrels")]
    available = repository.config_names()
    # A repository without a card cannot list its configs; a missing one is found when it is read.
    for config in configs if repository.configs or not repository.hub else ():
        if config not in available:
            raise DatasetError(
                f"{repository.name}: config {config} is missing; found "
                f"{', '.join(available) or 'none'}, needed are {', '.join(configs)}."
            )
    split = declaration.get("split", SPLIT)
    # The corpus last: a mistake in the small tables shows before gigabytes are fetched.
    queries, judgements, corpus = (load_table(repository, configs[n], split) for n in (1, 2, 0))
    document_ids = corpus.ids(corpus.name(*CORPUS_ID), unique=True)
    query_ids = queries.ids(queries.name(*QUERY_ID), unique=True)
    texts = queries.values(queries.name(*QUERY), STRINGS)
    qrels = judged(_judgements(judgements), query_ids, document_ids)
    asked = [True] * len(texts)
    languages: tuple[str, ...] = (prefix.removesuffix("-"),)
    if not prefix:
        asked, languages = _in_language(queries, declaration)
    documents, page_texts = _documents(corpus, declaration, range(len(document_ids)))
    ids = query_ids, texts, document_ids
    dataset = RetrievalDataset(repository.name, *ids, documents, qrels, page_texts, languages)
    return dataset.with_queries([row for row, wanted in enumerate(asked) if wanted])


def _language_prefix(repository: Repository, language: str | None) -> str:
    """What stands before ``corpus`` in the names of the configurations, if anything does."""
    names = repository.config_names()
    languages = sorted(name.removesuffix("-corpus") for name in names if name.endswith("-corpus"))
    if language in languages:
        return f"{language}-"
    if languages and "corpus" not in names:
        raise DatasetError(
            f"{repository.name}: language is {language!r}; the dataset has a corpus for each of "
            f"{', '.join(languages)}, and one must be chosen."
        )
    return ""


def _judgements(table: Table) -> list[Row]:
    """The rows of ``qrels``."""
    columns = (table.name(*QUERY_ID[:2]), table.name(*CORPUS_ID[:2]), table.name(SCORE))
    values = zip(*map(table.ids, columns[:2]), table.values(SCORE, SCORES), strict=True)
    return [
        Row(f"{table.label}, row {row}", dict(zip(columns, found, strict=True)))
        for row, found in enumerate(values)
    ]


def _read_captions(repository: Repository, declaration: Mapping[str, Any]) -> RetrievalDataset:
    schema = declaration["schema"]
    table = load_table(repository, declaration.get("config"), declaration.get("split", SPLIT))
    column = table.name(*CAPTIONS[schema])
    ids = [str(row) for row in range(len(table.data))]
    questions = [""] * len(ids)
    if schema == "answers":
        questions = table.values(table.name("question", *QUERY), STRINGS)
    references = {
        name: Row(f"{table.label}, row {name}", {column: found}).texts(column)
        for name, found in zip(ids, table.data.column(column).to_pylist(), strict=True)
    }
    pictures = Pages(table, table.name(DOCUMENT_COLUMNS["pages"]))
    return RetrievalDataset(
        *(repository.name, ids, questions, ids, pictures, {name: {name: 1} for name in ids}),
        languages=tuple(declaration.get("languages", ())),
        references=references,
        are_answers=schema == "answers",
    )


_READERS = {"qa": _read_qa, "beir": _read_beir, **dict.fromkeys(CAPTIONS, _read_captions)}
SCHEMAS = tuple(_READERS)
