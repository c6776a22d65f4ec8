"""The section "What matched": pictures and figures of explained scores, as the template prints."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from colport.base.redaction import redacted
from colport.explain.picture import CHANGE, HEAT, colour_bar
from colport.explain.selection import DAMAGED
from colport.report import formatting as fmt
from colport.report.section import Material, Section
from colport.scoring.score import HEADLINE

_MAX_BYTES = 2_000_000  # of pictures; the page is to stay below 5 MB
_BLANK = "\N{OPEN BOX}"


@dataclass(frozen=True)
class Picture:
    """One picture, what it shows in words, and its caption."""

    source: str
    alt: str
    caption: str
    note: str


@dataclass(frozen=True)
class PictureRow:
    """The pictures of all words, or of one, contender by contender; ``None`` is an empty cell."""

    heading: str
    note: str
    pictures: list[Picture | None]
    bar: str = ""


@dataclass(frozen=True)
class TokenRow:
    """One query token: its place, text and role, and a cell for each contender."""

    number: int
    token: str
    role: str
    cells: list[str]


@dataclass(frozen=True)
class FigureView:
    """One explained query.

    Attributes:
        number: Of the figure, from 1.
        title: What query it is.
        query: Its text.
        caption: What is shown.
        page: Source of the page's picture.
        page_alt: What that shows.
        contenders: Headings of the columns.
        rows: Rows of pictures.
        tokens: Every token of the query.
        low: Least similarity of the scale.
        high: Largest.
    """

    number: int
    title: str
    query: str
    caption: str
    page: str
    page_alt: str
    contenders: list[str]
    rows: list[PictureRow]
    tokens: list[TokenRow]
    low: str
    high: str


@dataclass(frozen=True)
class ModelMatches:
    """The figures of one model on a dataset, and what it has none of."""

    model: str
    dataset: str
    figures: list[FigureView]
    notes: list[str]


@dataclass(frozen=True)
class Matches:
    """The whole section.

    Attributes:
        models: In the order of the run; empty if there is nothing to show.
        bar: Source of the colour bar.
        further: Figures that would make the page too large.
    """

    models: list[ModelMatches]
    bar: str
    further: int


def section(material: Material) -> Section | None:
    """Heat maps of what matched, where the run explained any."""
    matches = match_views(material.explained)
    title = "What matched"
    content = {"matches": matches}
    return Section("matches", title, title, "matches.html", content) if matches.models else None


def match_views(records: Sequence[Mapping[str, Any]]) -> Matches:
    """The section from the records of :func:`colport.explain.record.explain_record`."""
    models: list[ModelMatches] = []
    used = number = further = 0
    for record in records:
        figures = []
        for figure in record["figures"]:
            used += _bytes_of(figure)
            if used > _MAX_BYTES:
                further += 1
                continue
            number += 1
            figures.append(_figure_view(number, figure))
        notes = [
            f"{item['variant']} is left out: {redacted(item['reason'])}"
            for item in record["left_out"]
        ]
        if record["reason"]:
            notes.append(f"There are no pictures: {redacted(record['reason'])}")
        if figures or notes:
            models.append(ModelMatches(record["model"], record["dataset"], figures, notes))
    return Matches(models, _bar(HEAT), further)


def _figure_view(number: int, figure: Mapping[str, Any]) -> FigureView:
    reference, tokens = figure["contenders"][0], figure["tokens"]
    names = [_name(tokens[place]) for place in figure["shown"]]
    low, high = (fmt.fixed(2)(value) for value in figure["scale"])
    page = redacted(str(figure["document"]))
    rows = [
        PictureRow(
            "All words",
            "mean similarity",
            [_whole(contender, reference, page) for contender in figure["contenders"]],
        )
    ]
    for index, (name, place) in enumerate(zip(names, figure["shown"], strict=True), start=1):
        share = reference["similarities"][place] / (reference["score"] or 1.0)
        note = f"token {place + 1}, {share:.1%} of the score in PyTorch"
        pictures = [
            _word(contender, reference, index, place, name, page)
            for contender in figure["contenders"]
        ]
        rows.append(PictureRow(name, note, pictures))
    if len(figure["contenders"]) > 1:
        rows.append(_change_row(figure, page))
    return FigureView(
        number=number,
        title=f"{figure['kind'].capitalize()} query",
        query=redacted(figure["text"]),
        caption=_caption(figure, page),
        page=_source(figure["page"]),
        page_alt=f"The page {page} itself.",
        contenders=[
            f"{contender['variant']}, {fmt.provider(contender['provider'])}"
            for contender in figure["contenders"]
        ],
        rows=rows,
        tokens=[
            TokenRow(
                place + 1,
                _name(token),
                token["role"],
                [_cell(contender, place) for contender in figure["contenders"]],
            )
            for place, token in enumerate(tokens)
        ],
        low=low,
        high=high,
    )


def _caption(figure: Mapping[str, Any], page: str) -> str:
    rows, columns = figure["grid"]
    kind = "the page judged relevant" if figure["relevant"] else "the page PyTorch ranks first"
    chosen = (
        "whose match changed most"
        if figure["kind"] == DAMAGED
        else "on a patch that add most to the score"
    )
    others = [
        similarity
        for similarity, token in zip(
            figure["contenders"][0]["similarities"], figure["tokens"], strict=True
        )
        if token["role"] != "query"
    ]
    share = sum(others) / (figure["contenders"][0]["score"] or 1.0)
    sentences = [
        f"Page {page}, {kind}, in {rows} by {columns} patches.",
        f"Below all words are those {chosen}.",
        f"Prompt and augmentation tokens make {share:.0%} of the score in PyTorch.",
    ]
    if figure["undrawn"]:
        sentences.append(f"{figure['undrawn']} variants that changed less are not drawn.")
    return " ".join(sentences)


def _whole(contender: Mapping[str, Any], reference: Mapping[str, Any], page: str) -> Picture:
    change = contender["score"] - reference["score"]
    caption = f"MaxSim {fmt.fixed(2)(contender['score'])}"
    if contender is not reference:
        caption += f" ({fmt.fixed(3, signed=True)(change)})"
    quality = contender[HEADLINE]
    note = "" if quality is None else f"NDCG@5 {fmt.fixed(3)(quality)}"
    alt = f"Page {page} under the mean similarity of all words in {contender['variant']}; {caption}"
    return Picture(_source(contender["pictures"][0]), alt, caption, note)


def _word(
    contender: Mapping[str, Any],
    reference: Mapping[str, Any],
    index: int,
    place: int,
    name: str,
    page: str,
) -> Picture:
    similarity = contender["similarities"][place]
    caption = fmt.fixed(3)(similarity)
    if contender is not reference:
        change = similarity - reference["similarities"][place]
        caption += f" ({fmt.fixed(3, signed=True)(change)})"
    moved = contender["places"][place] != reference["places"][place]
    where = _where(contender["places"][place])
    alt = (
        f"Page {page} under its similarity with the word {name} in {contender['variant']}: "
        f"{fmt.fixed(3)(similarity)} at most, {where}"
    )
    note = f"{where}, moved" if moved else where
    return Picture(_source(contender["pictures"][index]), alt, caption, note)


def _change_row(figure: Mapping[str, Any], page: str) -> PictureRow:
    limit = fmt.significant(figure["largest_change"], 2)
    pictures = [
        Picture(
            _source(contender["change"]),
            f"Page {page} under the change of that similarity from PyTorch to "
            f"{contender['variant']}, {limit} at most",
            "",
            "",
        )
        if contender["change"]
        else None
        for contender in figure["contenders"]
    ]
    note = f"of the mean similarity, {limit} lower (red) to {limit} higher (blue)"
    return PictureRow("Change", note, pictures, _bar(CHANGE))


def _name(token: Mapping[str, str]) -> str:
    return redacted(token["text"]) or _BLANK


def _where(place: Sequence[int] | None) -> str:
    return "not on a patch" if place is None else f"row {place[0] + 1}, column {place[1] + 1}"


def _cell(contender: Mapping[str, Any], place: int) -> str:
    found = contender["places"][place]
    where = "prompt" if found is None else f"{found[0] + 1}, {found[1] + 1}"
    return f"{fmt.fixed(3)(contender['similarities'][place])} at {where}"


def _source(webp: str) -> str:
    return f"data:image/webp;base64,{webp}"


def _bar(palette: Sequence[str]) -> str:
    stream = BytesIO()
    colour_bar(palette).save(stream, "PNG")
    return f"data:image/png;base64,{b64encode(stream.getvalue()).decode()}"


def _bytes_of(figure: Mapping[str, Any]) -> int:
    pictures = [
        picture or ""
        for contender in figure["contenders"]
        for picture in (*contender["pictures"], contender["change"])
    ]
    return len(figure["page"]) + sum(map(len, pictures))
