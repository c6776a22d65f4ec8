"""Points of the charts of quality against cost: which figure lies on which axis."""

import math

import pytest

from colport.report.sections import quality
from tests.unit.test_report import REFERENCE, joined, make, stored, variant
from tests.unit.test_report_charts import material


@pytest.fixture
def drawn(monkeypatch):
    """Axis to its points."""

    def draw(rows):
        found = {}

        def scatter(key, model, caption, label, points, table, reference, accepted):
            found[label] = points
            found["reference"], found["accepted"] = reference, accepted

        monkeypatch.setattr(quality.scatter, "chart", scatter)
        quality.section(material(**make(rows)))
        return found

    return draw


def test_figures_lie_on_their_axes_in_their_units(drawn):
    rows = joined(REFERENCE, variant(ms=25.0, mb=30.0, ndcg=0.796, delta=-0.004))
    stored(rows, binary=(2400, 0.5))
    found = drawn(rows)
    assert (found["reference"], found["accepted"]) == (pytest.approx(0.8), 0.01)
    by_label = {
        axis: {(point.label, point.x, round(point.y, 4)) for point in points}
        for axis, points in found.items()
        if isinstance(points, list)
    }
    assert by_label["Median time of one document batch, ms"] == {
        ("pytorch", 100.0, 0.8),
        ("int8", 25.0, 0.796),
    }
    assert ("int8", 30.0, 0.796) in by_label["Folder size, MB"]
    sizes = {(x, y) for _, x, y in by_label["Embeddings of a document, kB"]}
    assert sizes == {(76.8, 0.8), (76.8, 0.796), (2.4, 0.5)}


@pytest.mark.parametrize("passed", [True, False, None])
def test_what_failed_parity_is_hollow(drawn, passed):
    found = drawn(joined(REFERENCE, variant(passed=passed)))
    sound = {p.label: p.sound for p in found["Median time of one document batch, ms"]}
    assert sound == {"pytorch": True, "int8": passed is not False}


def test_providers_of_a_variant_share_a_place_without_their_names(drawn):
    rows = joined(REFERENCE, variant(), variant(provider="CUDAExecutionProvider", ms=5.0))
    found = drawn(rows)
    labels = {p.label for p in found["Median time of one document batch, ms"]}
    assert {"int8, CPU", "int8, CUDA"} < labels
    assert [p.label for p in found["Folder size, MB"] if not math.isnan(p.x)] == ["int8"]
