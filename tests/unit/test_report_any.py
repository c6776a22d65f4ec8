"""Whatever a run holds, the page renders, nests and escapes it."""

from __future__ import annotations

import math

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from colport.report import Report
from colport.report.files import standalone
from tests.unit.test_report import REFERENCE, RUN, Page, joined, make, variant

NAMES = st.one_of(
    st.sampled_from(
        ["int8", "pytorch", "</script><script>alert(1)//", '"><img src=x>', "コル", " "]
    ),
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12),
)
FIGURES = st.sampled_from([None, math.nan, 0.0, -1.0, 1e-12, 0.5, 3.0, 1e12])


@st.composite
def parts(draw):
    """Rows of one variant with any figures, each stage ok, failed or unsupported."""
    figures = {key: draw(FIGURES) for key in ("ndcg", "delta", "p", "speedup")}
    figures["ms"] = draw(st.sampled_from([None, math.nan, 1e-12, 0.5, 1e12]))  # a clock moves on
    figures["mb"] = draw(st.sampled_from([0.0, 1e-6, 30.0, 1e9]))
    figures["passed"] = draw(st.sampled_from([True, False, None]))
    names = {"model": draw(NAMES), "name": draw(NAMES), "provider": draw(NAMES)}
    rows = variant(**names, **figures)
    for stage in rows.values():
        status = draw(st.sampled_from(["ok", "ok", "failed", "unsupported"]))
        for item in stage:
            item.update(status=status, reason=draw(NAMES) if status != "ok" else "")
    return rows


@settings(max_examples=10, deadline=None, phases=(Phase.explicit, Phase.generate))
@given(st.lists(parts(), max_size=4), st.booleans())
def test_any_run_has_a_page_and_charts(drawn, with_reference):
    rows = joined(*([REFERENCE] if with_reference else []), *drawn)
    report = Report(make(rows), RUN)
    html = report.html()
    page = Page(html)
    assert page.stack == []
    assert len(page.ids) == len(set(page.ids))
    assert "<script>alert" not in html
    assert "<img src=x" not in html
    for chart in report.charts():
        text = str(chart.drawing.markup) + standalone(chart)
        assert "nan" not in text.replace("</", "").lower().split('class="label"')[0]
        assert "<img" not in text
