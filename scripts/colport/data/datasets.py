"""A dataset by its declaration in the configuration: loaded, checked, recorded."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from colport.base import declared
from colport.base.errors import ConfigError, DatasetError
from colport.base.files import read_json, sha256_file
from colport.base.foreign import local
from colport.data.base import RetrievalDataset, batches
from colport.data.captions import PICTURE
from colport.data.documents import IMAGES, PDF, PageSettings, read_own
from colport.data.judgements import DOCUMENT, QUERY, QUERY_ID, read_rows
from colport.data.published import CAPTIONS, DOCUMENT_COLUMNS, SCHEMAS, read_published
from colport.families import registry
from colport.families.base import spelled

SOURCES = ("hub", "path", "documents_folder")
_COMMON = ("limit", "languages", "documents")
_PUBLISHED = ("hub", "revision", "size", "path", "schema", "split", *_COMMON)
_OWN = ("documents_folder", *PageSettings.__annotations__, *_COMMON)
_KEYS = {
    (False, False): (*_PUBLISHED, "language"),
    (False, True): (*_PUBLISHED, "config", "prompt"),
    (True, False): (*_OWN, "queries", "judgements", "language"),
    (True, True): (*_OWN, "captions", "prompt"),
}
"""Keys of an entry, by whether it is of the user's own files, and of captions."""

QUESTION = "{question}"
"""What stands for a picture's own question or prompt in a prompt for all."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


def load_retrieval_dataset(
    name: str, declaration: Mapping[str, Any], record: Path | str | None = None
) -> RetrievalDataset:
    """Read a dataset and check it as a whole, before anything is computed on it.

    Args:
        name: Name of the dataset in the configuration, used in messages.
        declaration: The configuration's entry. A published dataset has ``path`` (a local folder) or
            ``hub`` (a repository) with ``revision`` (a commit), ``schema`` (``qa`` or ``beir``),
            and optionally ``split`` (default ``test``) and ``documents`` (``pages``, the default,
            or ``passages``). The user's own pages have ``documents_folder`` and ``queries`` (a
            file), and optionally ``judgements`` (a file), ``dpi``, ``max_pixels`` and
            ``on_bad_document`` (``refuse``, the default, or ``skip``). Both take ``limit`` (the
            first documents only, with the queries whose relevant documents are all among them),
            ``languages`` (those that the dataset has) and ``language`` (the queries in this one,
            or the configurations ``<language>-corpus``, ``-queries`` and ``-qrels``).
        record: File with :func:`dataset_record`, for stages behind the check: it says which
            documents were skipped.

    Returns:
        The dataset. In ``qa`` form queries are deduplicated by text and null or blank ones
        dropped; a query's id is ``q`` and the row where its text stands first; documents are
        deduplicated by ``image_filename``, which is their id.

    Raises:
        ConfigError: The declaration itself is wrong.
        DatasetError: The data is missing or contradicts its schema or itself.
    """
    check_declaration(name, declaration)
    if record is not None and declaration.get("on_bad_document") == "skip":
        return read_own(name, declaration, is_checked=True).recorded(read_json(record))
    read = read_own if "documents_folder" in declaration else read_published
    dataset = _prompted(read(name, declaration), declaration.get("prompt"))
    if limit := declaration.get("limit"):
        dataset = dataset.first_documents(limit)
    if {"judgements", "captions"} & declaration.keys() or "documents_folder" not in declaration:
        _check_judged(dataset, f" among the first {limit} documents" if limit else "")
    return dataset


def holds(declaration: Mapping[str, Any]) -> str:
    """What an entry of ``datasets`` holds: ``pages``, ``passages``, or ``captions`` of pictures."""
    if "captions" in declaration or declaration.get("schema") in CAPTIONS:
        return "captions"
    return declaration.get("documents", "pages")


def _prompted(dataset: RetrievalDataset, prompt: str | None) -> RetrievalDataset:
    """The dataset with what the model is given beside each picture.

    Raises:
        DatasetError: A picture has a question, which the prompt would leave out.
    """
    if prompt is None:
        return dataset
    if QUESTION not in prompt and any(dataset.queries):
        raise DatasetError(
            f"{dataset.name}: prompt {prompt!r} has no {QUESTION}, and the dataset has questions."
        )
    return replace(dataset, queries=[prompt.replace(QUESTION, text) for text in dataset.queries])


def _check_judged(dataset: RetrievalDataset, scope: str = "") -> None:
    if not any(score > 0 for judged in dataset.qrels.values() for score in judged.values()):
        raise DatasetError(
            f"{dataset.name}: no query has a judgement above 0{scope}; one is needed."
        )


def check_declaration(name: str, declaration: Mapping[str, Any]) -> None:
    """Check one entry of ``datasets`` in the configuration, without touching any file.

    Raises:
        ConfigError: A key is unknown, missing, of a wrong value or contradicts another one.
    """

    def fail(key: str, found: object, allowed: str) -> None:
        raise ConfigError(f"datasets.{name}.{key}: found {found!r}; allowed is {allowed}.")

    found = [source for source in SOURCES if source in declaration]
    if len(found) != 1:
        fail("path", found, f"exactly one of {', '.join(SOURCES)}")
    own = "documents_folder" in declaration
    is_captioned = holds(declaration) == "captions"
    keys = _KEYS[own, is_captioned]
    for key in declaration:
        if key not in keys:
            fail(key, declaration[key], f"with {found[0]} one of the keys {', '.join(keys)}")
    kinds = ("pages",) if own or is_captioned else tuple(DOCUMENT_COLUMNS)
    if declaration.get("documents", "pages") not in kinds:
        fail("documents", declaration["documents"], " or ".join(kinds))
    if own:
        if not {"queries", "captions"} & declaration.keys():
            fail("queries", None, "a CSV, TSV or JSONL file, or captions in its place")
    else:
        revision = declaration.get("revision")
        if "hub" in declaration and not _COMMIT.fullmatch(str(revision)):
            fail("revision", revision, "a commit of 40 hexadecimal digits")
        if declaration.get("schema") not in SCHEMAS:
            fail("schema", declaration.get("schema"), " or ".join(SCHEMAS))
    for key in ("limit", "dpi", "max_pixels"):
        value = declaration.get(key, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            fail(key, value, "a positive whole number")
    declared.check(PageSettings.of(declaration), f"datasets.{name}.")
    language, languages = declaration.get("language"), declaration.get("languages")
    if language is not None and languages and language not in languages:
        fail("language", language, f"one of {', '.join(languages)}")


def look(field: str, declaration: Mapping[str, Any], files: Iterable[str]) -> None:
    """What a glance at the files of a dataset on this machine shows, before it is read.

    Args:
        field: Its entry in the configuration.
        declaration: The entry.
        files: All that are there.

    Raises:
        DatasetError: None holds documents, or the user's queries or judgements are of another form.
    """
    kinds = (PDF, *IMAGES) if "documents_folder" in declaration else (".parquet",)
    if "hub" not in declaration and not any(file.lower().endswith(kinds) for file in files):
        raise DatasetError(f"{field}: has no documents; allowed are {', '.join(kinds)} files.")
    ids = [QUERY_ID] if "judgements" in declaration else []
    needed = {
        "queries": [QUERY, *ids],
        "judgements": [QUERY_ID, DOCUMENT],
        "captions": [(PICTURE,)],
    }
    for key, columns in needed.items():
        if key in declaration:
            row = next(read_rows(f"{field}.{key}", local(declaration[key])))
            for spellings in columns:
                row.need(*spellings)


def check_pages(
    dataset: RetrievalDataset,
    report: Callable[[str], None],
    *,
    read_by: Sequence[str] = (),
    skip: bool | None = None,
    asked_in: str = "its queries",
) -> RetrievalDataset:
    """Decode or render every page once, so that a bad one is found before any is embedded.

    Queries are read, too, for what a family's library takes for part of a page.

    Args:
        dataset: Its passages, if it holds those, need no check.
        report: Called with the progress every few seconds.
        read_by: Names of the families that read it, whose libraries may not take every size.
        skip: Whether bad pages are left out; ``None`` where no dataset of this kind can do that.
        asked_in: File or folder of the queries, for messages.

    Returns:
        The dataset, without the pages left out.

    Raises:
        DatasetError: A page cannot be decoded, or a page or query is none that a family takes;
            names dataset, row and column, file, or query.
    """
    count, families = len(dataset.documents), map(registry.get, read_by)
    readers = [family for family in families if family.task == "retrieval"]
    if count and isinstance(dataset.documents[0], str):
        return dataset
    for name, query in zip(dataset.query_ids, dataset.queries, strict=True):
        for family in readers:
            if fault := spelled(query, family.reserved):
                named = f"{dataset.name}: {asked_in}, query {name}"
                raise DatasetError(f"{named} {fault} (family {family.name}).")
    bad: dict[str, str] = {}
    for (row,) in batches(count, 1, "checked", "pages", report):
        name = dataset.document_ids[row]
        try:
            page = dataset.documents[row]
            for family in readers:
                if fault := family.page_fault(page.width, page.height):
                    hint = "" if skip is None else "; `on_bad_document: skip` leaves it out"
                    raise DatasetError(
                        f"{dataset.name}: {name} {fault} for {family.name}{'' if skip else hint}."
                    )
        except DatasetError as error:
            if not skip:
                raise
            bad[name] = str(error).removeprefix(f"{dataset.name}: {name} ").removesuffix(".")
    if not bad:
        return dataset
    left = dataset.without(bad)
    if dataset.qrels:
        _check_judged(left, " once bad documents are left out")
    return left


def dataset_record(
    dataset: RetrievalDataset, declaration: Mapping[str, Any], files: list[str]
) -> dict[str, Any]:
    """What ``results/datasets/{dataset}.json`` holds: ids, queries, judgements and their source.

    Args:
        dataset: The loaded dataset.
        declaration: The configuration's entry.
        files: Local files that it was read from; a digest of their content is kept, so that what
            depends on the record reruns when a page changes.
    """
    fields = ("query_ids", "queries", "document_ids", "qrels", "languages")
    fields += ("references", "are_answers")
    return {
        **{field: getattr(dataset, field) for field in fields},
        "skipped": dict(dataset.skipped),
        "counts": {
            "queries": len(dataset.queries),
            "documents": len(dataset.document_ids),
            "judgements": sum(map(len, dataset.qrels.values())),
            "skipped": len(dataset.skipped),
        },
        "source": dict(declaration),
        "content_sha256": _digest(files),
    }


def _digest(files: list[str]) -> str | None:
    if not files:
        return None
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(bytes.fromhex(sha256_file(file)))
    return digest.hexdigest()
