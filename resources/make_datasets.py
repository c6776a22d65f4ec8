"""Make the demo datasets: pages in two forms and of real size, captions, passages, files.

Run from the repository root:

    python resources/make_datasets.py
"""

from __future__ import annotations

import csv
import json
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset, Features, Image, Value
from demo_pages import SMALL, Exhibit, Page, make_caption, make_page, make_query
from tqdm import tqdm

ROOT = Path(__file__).parent
HANDBOOK = ROOT / "handbook"
PARQUET_NAME = "test-00000-of-00001.parquet"

# The training pages in train_demo.py use other seeds, so no page is seen in training.
QA_SEED, BEIR_SEED, LETTER_SEED, OWN_SEED, CAPTIONS_SEED = 101, 202, 303, 404, 505
QA_PAGES, QA_EXTRA_QUERIES, QA_PAGES_WITHOUT_QUERY = 112, 6, 6
BEIR_PAGES, BEIR_QUERIES, FIRST_CORPUS_ID = 120, 110, 1000
QA_LAYOUTS = ("portrait", "tall", "landscape")
BEIR_LAYOUTS = SMALL
LETTER_PAGES = 32
OWN_PAGES = 16
CAPTIONS_PAGES = 64
QA_EXHIBITS_NAMED, BEIR_EXHIBITS_NAMED = 3, 4

CARD = """---
license: apache-2.0
language:
- en
pretty_name: {title}
size_categories:
- n<1K
task_categories:
- {task}
configs:
{configs}---

# {title}

{body}
"""
CONFIG = "- config_name: {name}\n  data_files:\n  - split: test\n    path: {folder}/test-*\n"


def make_pages(rng: random.Random, count: int, layouts: Sequence[str]) -> list[Page]:
    """Draw `count` pages, no two of them with the same six exhibits."""
    pages: dict[frozenset[Exhibit], Page] = {}
    with tqdm(total=count, desc="pages") as bar:
        while len(pages) < count:
            page = make_page(rng, layouts)
            if frozenset(page.exhibits) not in pages:
                pages[frozenset(page.exhibits)] = page
                bar.update()
    return list(pages.values())


def matches(pages: Sequence[Page], exhibits: Sequence[Exhibit]) -> list[int]:
    """Count for each page how many of the exhibits it shows."""
    return [len(set(page.exhibits) & set(exhibits)) for page in pages]


def pick_unique(rng: random.Random, pages: Sequence[Page], page: Page, count: int) -> list[Exhibit]:
    """Pick `count` exhibits of `page` that no other page shows together."""
    while True:
        exhibits = rng.sample(page.exhibits, count)
        if matches(pages, exhibits).count(count) == 1:
            return exhibits


def make_qa_rows(
    rng: random.Random, pages: Sequence[Page], extra_queries: int = 0, pages_without_query: int = 0
) -> list[dict]:
    """Write the QA rows: a page, its file name, and a query that only this page answers."""
    names = [f"report_{index:03d}.png" for index in range(len(pages))]
    without_query = len(pages) - pages_without_query
    asked = [*range(without_query), *rng.sample(range(without_query), extra_queries)]
    rows = []
    for index in sorted(asked) + list(range(without_query, len(pages))):
        page, query = pages[index], None
        if index < without_query:
            query = make_query(rng, pick_unique(rng, pages, page, QA_EXHIBITS_NAMED))
        image = {"bytes": page.png(), "path": names[index]}
        rows.append({"query": query, "image": image, "image_filename": names[index]})
    rng.shuffle(rows)
    return rows


def make_page_qrels(
    rng: random.Random, pages: Sequence[Page], corpus_ids: Sequence[int]
) -> tuple[list[dict], list[dict]]:
    """Write queries naming four exhibits; pages with all four score 2, with three of them 1."""
    queries, qrels = [], []
    for query_id, page in enumerate(rng.sample(pages, BEIR_QUERIES)):
        exhibits = pick_unique(rng, pages, page, BEIR_EXHIBITS_NAMED)
        queries.append({"query-id": query_id, "query": make_query(rng, exhibits)})
        for corpus_id, shown in zip(corpus_ids, matches(pages, exhibits), strict=True):
            score = shown - BEIR_EXHIBITS_NAMED + 2
            if score > 0:
                qrels.append({"query-id": query_id, "corpus-id": corpus_id, "score": score})
    return queries, qrels


def write_parquet(folder: Path, rows: list[dict], types: dict[str, str]) -> None:
    """Write rows as the only parquet file of `folder`, in columns of the given types."""
    features = Features(
        {name: Image() if kind == "image" else Value(kind) for name, kind in types.items()}
    )
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=features).to_parquet(folder / PARQUET_NAME)


def write_qa(folder: Path, rows: list[dict]) -> None:
    """Write rows as a QA-form dataset."""
    types = {"query": "string", "image": "image", "image_filename": "string"}
    write_parquet(folder / "data", rows, types)


def write_card(folder: Path, title: str, task: str, configs: dict[str, str], body: str) -> None:
    """Write the README with the header that the datasets library reads the configs from."""
    listing = "".join(CONFIG.format(name=name, folder=path) for name, path in configs.items())
    card = CARD.format(title=title, task=task, configs=listing, body=body)
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_beir(folder: Path, document: str, ids: str, *tables: list[dict]) -> None:
    """Write corpus, queries and qrels as the three configs of a BEIR-form dataset."""
    corpus, queries, qrels = tables
    content = "image" if document == "image" else "string"
    write_parquet(folder / "corpus", corpus, {"corpus-id": ids, document: content})
    write_parquet(folder / "queries", queries, {"query-id": ids, "query": "string"})
    types = {"query-id": ids, "corpus-id": ids, "score": "int64"}
    write_parquet(folder / "qrels", qrels, types)


def make_demo_pages_qa(folder: Path) -> None:
    """Make the page dataset in the form of the first ViDoRe benchmark."""
    rng = random.Random(QA_SEED)
    pages = make_pages(rng, QA_PAGES, QA_LAYOUTS)
    write_qa(folder, make_qa_rows(rng, pages, QA_EXTRA_QUERIES, QA_PAGES_WITHOUT_QUERY))
    body = (
        f"{QA_PAGES} drawn report pages with six coloured charts, tables or photos each. A query "
        "names three of them\nand is answered by exactly one page: the one with the query's "
        "`image_filename`. Some pages stand in two\nrows with a query each, and some have no "
        "query. Made by `make_datasets.py`."
    )
    task = "visual-document-retrieval"
    write_card(folder, "Demo pages, QA form", task, {"default": "data"}, body)


def make_demo_pages_letter(folder: Path) -> None:
    """Make the page dataset of real size, in the form of the first ViDoRe benchmark."""
    rng = random.Random(LETTER_SEED)
    write_qa(folder, make_qa_rows(rng, make_pages(rng, LETTER_PAGES, ["letter"])))
    body = (
        f"{LETTER_PAGES} drawn report pages of 1224 x 1584 pixels, which is US letter at 144 dpi, "
        "with six coloured\ncharts, tables or photos each, and a query for each page that names "
        "three of them. Made by\n`make_datasets.py`."
    )
    task = "visual-document-retrieval"
    write_card(folder, "Demo pages of real size", task, {"default": "data"}, body)


def make_demo_pages_beir(folder: Path) -> None:
    """Make the page dataset in the form of the second ViDoRe benchmark."""
    rng = random.Random(BEIR_SEED)
    pages = make_pages(rng, BEIR_PAGES, BEIR_LAYOUTS)
    corpus_ids = list(range(FIRST_CORPUS_ID, FIRST_CORPUS_ID + BEIR_PAGES))
    rng.shuffle(corpus_ids)  # an id is not a row number
    corpus = [
        {"corpus-id": corpus_id, "image": {"bytes": page.png(), "path": f"{corpus_id}.png"}}
        for corpus_id, page in zip(corpus_ids, pages, strict=True)
    ]
    write_beir(folder, "image", "int64", corpus, *make_page_qrels(rng, pages, corpus_ids))
    body = (
        f"{BEIR_PAGES} drawn report pages of five shapes, with six coloured charts, tables or "
        f"photos each.\nEach of the {BEIR_QUERIES} queries names four of them: the page with all "
        "four has score 2, pages with three of\nthe four have score 1. Made by "
        "`make_datasets.py`."
    )
    configs = {name: name for name in ("corpus", "queries", "qrels")}
    write_card(folder, "Demo pages, BEIR form", "visual-document-retrieval", configs, body)


def read_jsonl(path: Path) -> list[dict]:
    """Read a file with one JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def make_demo_passages(folder: Path) -> None:
    """Make the text dataset from the handbook's passages and queries."""
    passages = read_jsonl(HANDBOOK / "passages.jsonl")
    corpus = [{"corpus-id": row["id"], "text": row["text"]} for row in passages]
    queries, qrels = [], []
    for row in read_jsonl(HANDBOOK / "queries.jsonl"):
        queries.append({"query-id": row["id"], "query": row["query"]})
        for passage_id, score in row["relevant"].items():
            qrels.append({"query-id": row["id"], "corpus-id": passage_id, "score": score})
    write_beir(folder, "text", "string", corpus, queries, qrels)
    body = (
        f"{len(corpus)} short passages of a handbook on document retrieval and model serving, "
        f"and {len(queries)} queries.\nThe best passage of a query has score 2, a passage that "
        "answers it in part has score 1.\nWritten for this project; sources in `handbook/`. Made "
        "by `make_datasets.py`."
    )
    configs = {name: name for name in ("corpus", "queries", "qrels")}
    write_card(folder, "Demo passages", "text-retrieval", configs, body)


def make_own_documents(folder: Path) -> None:
    """Make what a user has: a folder with a PDF and an image, queries and judgements."""
    rng = random.Random(OWN_SEED)
    *bound, single = make_pages(rng, OWN_PAGES, ["portrait"])
    names = [f"2026/charts.pdf#{number}" for number in range(1, OWN_PAGES)] + ["cover.png"]
    (folder / "reports/2026").mkdir(parents=True)
    first, *others = (page.image.convert("RGB") for page in bound)
    made = {"creationDate": time.gmtime(0), "modDate": time.gmtime(0)}
    first.save(folder / "reports/2026/charts.pdf", save_all=True, append_images=others, **made)
    (folder / "reports/cover.png").write_bytes(single.png())
    pages, queries, judgements = [*bound, single], ["query_id,query"], ["query_id,document,score"]
    for number, (name, page) in enumerate(zip(names, pages, strict=True), start=1):
        text = make_query(rng, pick_unique(rng, pages, page, QA_EXHIBITS_NAMED))
        queries.append(f'q{number},"{text}"')
        judgements.append(f"q{number},{name},1")
    for file, lines in (("queries", queries), ("judgements", judgements)):
        (folder / f"{file}.csv").write_text("\n".join([*lines, ""]), encoding="utf-8")


def make_demo_captions(folder: Path) -> None:
    """Make a folder of pictures, and a table that says what each shows."""
    pages = make_pages(random.Random(CAPTIONS_SEED), CAPTIONS_PAGES, SMALL)
    (folder / "pictures").mkdir()
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["picture", "caption"])
        for index, page in enumerate(pages):
            name = f"page_{index:02d}.png"
            (folder / "pictures" / name).write_bytes(page.png())
            rows.writerow([name, make_caption(page)])


def main() -> None:
    """Make all datasets anew."""
    makers = {
        "demo-pages-qa": make_demo_pages_qa,
        "demo-pages-letter": make_demo_pages_letter,
        "demo-pages-beir": make_demo_pages_beir,
        "demo-captions": make_demo_captions,
        "demo-passages": make_demo_passages,
        "own-documents": make_own_documents,
    }
    for name, maker in makers.items():
        folder = ROOT / "datasets" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        maker(folder)


if __name__ == "__main__":
    main()
