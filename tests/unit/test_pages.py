"""What the pages of docs/ say of the code is there: messages, terms, links."""

import ast
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = sorted(
    page
    for folder in (".", "docs", "config", "benchmarks")
    for page in (ROOT / folder).glob("*.md")
)
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
MESSAGES = re.findall(r"^### `(.*)`$", (ROOT / "docs/troubleshooting.md").read_text(), re.M)
TERMS = re.findall(r"^\*\*(.+?)\*\*", (ROOT / "docs/glossary.md").read_text(), re.M)


def said(file: Path) -> list[str]:
    """Texts of a module; what a text is filled with stands as ``…``."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            found.append("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(re.sub(r"\{\w*\}", "…", node.value))
    return found


@pytest.fixture(scope="module")
def texts() -> list[str]:
    library = ROOT / "scripts/colport"
    templates = [file.read_text(encoding="utf-8") for file in library.rglob("*.html")]
    return [text for file in library.rglob("*.py") for text in said(file)] + templates


def is_said(message: str, text: str) -> bool:
    """Whether the pieces of a message between its ``…`` come one after the other in a text."""
    pieces = [piece.strip() for piece in message.split("…") if piece.strip(" ().;,")]
    place = 0
    for piece in pieces:
        place = text.find(piece, place)
        if place < 0:
            return False
        place += len(piece)
    return bool(pieces)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_is_explained_is_in_the_code(message, texts):
    assert len(re.sub(r"\W", "", message)) > 10, "too short to be found by"
    assert any(is_said(message, text) for text in texts)


def test_messages_are_told_apart_by_their_pieces():
    assert is_said("… a b …; c", "x a b y; c")
    assert not is_said("… a b …; c", "x a b y, c")
    assert not is_said("… a b …; c", "; c a b")
    assert not is_said("…", "anything")
    assert len(MESSAGES) >= 15


def test_the_glossary_is_sorted_and_its_terms_are_used():
    assert sorted(TERMS, key=str.lower) == TERMS
    pages = [page.read_text() for page in PAGES if page.name != "glossary.md"]
    others = " ".join(pages).lower().replace("-", " ")
    assert [term for term in TERMS if term.lower().replace("-", " ") not in others] == []


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub gives the headings of a page."""
    names = (re.sub(r"[^\w\- ]", "", title.lower()) for title in HEADING.findall(page.read_text()))
    return {name.strip().replace(" ", "-") for name in names}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text()):
        if re.match(r"\w+:", target):
            continue
        place = (page.parent / target).resolve() if target else page
        if not place.is_relative_to(ROOT) or "/../" in target.removeprefix("../"):
            continue  # a page of the Hub or of GitHub beside this one
        assert place.exists() or "results" in place.parts, f"{page.name}: {target}"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{page.name}: {target}#{anchor}"
