"""Captions beside their references: values of public implementations, intervals, the record."""

from itertools import product, zip_longest

import numpy as np
import pytest
from sacrebleu.metrics import BLEU

from colport.base.columns import TABLES, row
from colport.base.errors import ArtifactError, UnsupportedError
from colport.scoring import details, statistics
from colport.scoring.captions import CAPTION_METRICS, caption_record, measured
from colport.scoring.record import unsupported_record
from colport.scoring.statistics import bootstrap_interval, paired_difference
from colport.tables import flatten
from colport.tables.summary import build

CAPTIONS = {
    "dog": "a brown dog runs across the grass",
    "cat": "a cat cat cat sleeps on a red sofa",
    "bus": "two buses parked on the street near a large tall building with many windows",
    "boat": "boat",
    "kite": "",
}
REFERENCES = {
    "dog": ["a brown dog runs on the grass", "the dog is running through a field of grass"],
    "cat": ["a cat sleeps on a red sofa", "a grey cat on the couch", "cat asleep on the sofa"],
    "bus": ["two buses parked on the street"],
    "boat": ["a small boat on the lake", "boat"],
    "kite": ["a child flies a kite"],
}
FIRST = [[texts[0]] for texts in REFERENCES.values()]
PLACE = {"model": "m", "provider": "cpu", "dataset": "d"}
WORDS = ["a", "the", "man", "dog", "car", "red", "blue", "on", "in", "rides", "sits", "near", "old"]


def texts(count, seed=0, kept=0.7):
    """References, one to four a picture, and captions that keep a share of a reference's words."""
    rng = np.random.default_rng(seed)
    references = [
        [" ".join(rng.choice(WORDS, rng.integers(2, 12))) for _ in range(rng.integers(1, 5))]
        for _ in range(count)
    ]
    captions = [
        " ".join(word if rng.random() < kept else rng.choice(WORDS) for word in known[0].split())
        for known in references
    ]
    return captions, references


def values(captions, references, **settings):
    found = measured([*captions], [*references], **settings)
    return {name: statistics.estimate(metric) for name, metric in found.items()}


def test_cider_is_that_of_pycocoevalcap():
    """Its ``CiderScorer`` (1.2) on the same words."""
    found = measured([*CAPTIONS.values()], [*REFERENCES.values()])["cider"]
    stored = [3.244824692572297, 2.4328867717831355, 2.3455886474616516, 1.7551473647013982, 0]
    assert found.of(found.parts) == pytest.approx(stored, abs=1e-12)
    assert statistics.estimate(found) == pytest.approx(1.9556894953036967, abs=1e-12)


def test_words_of_cider_have_no_case_and_no_punctuation():
    plain, marked = (
        values(own, REFERENCES.values())["cider"]
        for own in (CAPTIONS.values(), [f"{text.title()}!" for text in CAPTIONS.values()])
    )
    assert marked == plain


def test_error_rates_are_those_of_jiwer():
    """Its ``cer`` and ``wer`` (4.0.0) of all captions against one reference each."""
    found = values(CAPTIONS.values(), FIRST)
    assert found["cer"] == pytest.approx(0.7596899224806202)
    assert found["wer"] == pytest.approx(0.6774193548387096)


def test_the_nearest_reference_counts_for_error_rates():
    found = values(["a cat"], [["a dog runs far away", "a  Cat"]])
    assert (found["cer"], found["wer"]) == (1 / 5, 1 / 2)


def test_bleu_is_sacrebleus():
    captions, references = texts(40)
    known = BLEU(lowercase=True).corpus_score(captions, [*zip_longest(*references)])
    assert values(captions, references)["bleu4"] == pytest.approx(known.score)
    assert values(["x"], [["y"]])["bleu4"] == 0


def test_anls_of_the_nearest_answer_is_cut_at_a_half():
    answers = [["Paris", "Paris, France"], ["12 May"], ["1984"], ["no"]]
    found = measured(["paris", "12 Mai", "2001", ""], answers, are_answers=True)["anls"]
    assert found.of(found.parts).tolist() == pytest.approx([1, 5 / 6, 0, 0])
    assert "anls" not in values(CAPTIONS.values(), REFERENCES.values())


def test_intervals_of_bleu_are_those_of_resampling_pictures():
    """sacrebleu's own bootstrap computes BLEU again for each sample."""
    captions, references = texts(150)
    streams = [*zip_longest(*references)]
    known = BLEU(lowercase=True).corpus_score(captions, streams, n_bootstrap=1000)
    low, high = bootstrap_interval(measured(captions, references)["bleu4"])
    assert low == pytest.approx(known._mean - known._ci, abs=0.6)
    assert high == pytest.approx(known._mean + known._ci, abs=0.6)


def test_metrics_that_are_means_are_treated_as_means():
    captions, references = texts(30)
    others = texts(30, kept=0.6)[0]
    own, other = (
        measured(found, references, are_answers=True)["anls"] for found in (captions, others)
    )
    first, second = (found.of(found.parts) for found in (own, other))
    assert bootstrap_interval(own) == pytest.approx(bootstrap_interval(first))
    assert paired_difference(own, other) == pytest.approx(paired_difference(first, second))


@pytest.mark.parametrize("name", ["bleu4", "cer"])
def test_p_values_are_those_of_swapping_captions(name):
    """Of the eight pictures with other captions, whose assignments are all tried."""
    captions, references = texts(40)
    others = ["a dog sits" if number < 8 else text for number, text in enumerate(captions)]
    own, other = (measured(found, references)[name] for found in (captions, others))
    observed = abs(statistics.estimate(own) - statistics.estimate(other))
    extreme = 0
    for swapped in product((True, False), repeat=8):
        mask = np.array([*swapped, *[False] * 32])[:, None]
        one, two = (
            found.of(np.where(mask, first.parts, second.parts).sum(axis=0))
            for found, first, second in ((own, own, other), (own, other, own))
        )
        extreme += abs(one - two) >= observed * (1 - 1e-9)
    p_value, low, high = paired_difference(own, other)
    assert p_value == pytest.approx(extreme / 2**8, abs=0.015)
    assert (p_value <= 0.05) == (not low <= 0 <= high)


def test_equal_captions_have_p_one():
    captions, references = texts(12)
    for metric in measured(captions, references, are_answers=True).values():
        assert paired_difference(metric, metric) == pytest.approx((1, 0, 0), abs=1e-9)


def record(captions=CAPTIONS, reference=None, variant="int8", **given):
    labels = {**PLACE, "variant": variant}
    return caption_record(labels, captions, REFERENCES, reference, {"seed": 3}, **given)


def test_a_record_has_captions_beside_those_of_pytorch():
    pytorch = record(variant="pytorch")
    found = record(
        {**CAPTIONS, "boat": "ship", "cat": CAPTIONS["cat"].replace(" ", "  ")}, pytorch["captions"]
    )
    (line,) = found["rows"]
    assert tuple(line) == TABLES["captions"].all
    assert (line["captions"], line["equal"], line["metric"]) == (5, 0.8, "cider")
    assert 0 < line["equal_low"] < 0.8 < line["equal_high"] < 1
    assert line["delta"] == pytest.approx(line["score"] - pytorch["rows"][0]["score"])
    assert line["delta"] < 0 < line["p_value"] <= 1
    assert line["delta_low"] is None  # of five pictures
    assert line["anls"] is None
    assert found["settings"]["seed"] == 3
    assert found["settings"]["words"]["bleu"].startswith("nrefs:var|case:lc|eff:no|tok:13a")
    first = pytorch["rows"][0]
    assert (first["equal"], first["delta"], first["p_value"]) == (1, 0, None)
    assert first["equal_low"] is None
    assert record(variant="pytorch", are_answers=True)["rows"][0]["metric"] == "anls"


def test_one_reference_a_picture_is_judged_by_its_characters():
    known = {name: found[:1] for name, found in REFERENCES.items()}
    found = caption_record({**PLACE, "variant": "pytorch"}, CAPTIONS, known, None, {})
    assert found["rows"][0]["metric"] == "cer"
    assert found["rows"][0]["score"] == found["rows"][0]["cer"]


def test_captions_of_other_pictures_are_refused():
    with pytest.raises(ArtifactError, match=r"captions of 4 pictures, references of 5 and .* of 4"):
        record({name: CAPTIONS[name] for name in [*CAPTIONS][:4]})


def test_tables_of_captions():
    pytorch = record(variant="pytorch", are_answers=True)
    limit = unsupported_record({**PLACE, "variant": "int4"}, UnsupportedError("No."), "captions")
    table = flatten("captions", [pytorch, limit])
    assert table["status"].tolist() == ["ok", "unsupported"]
    built = details.build([], [pytorch, limit])
    assert built["retrieval_intervals"].empty
    assert built["caption_intervals"]["metric"].tolist() == [*CAPTION_METRICS]
    items = built["caption_items"].set_index("item")
    assert items["caption"].to_dict() == CAPTIONS
    assert items.loc["bus", "cer"] == pytest.approx(45 / 30)


def test_the_summary_has_equal_captions_as_agreement():
    """And the first token in the place of a query, a caption in that of a document."""
    place = {"model": "m", "variant": "int8", "provider": "cpu"}
    pytorch = record(variant="pytorch")
    captions = [pytorch, record({**CAPTIONS, "boat": "ship"}, pytorch["captions"])]
    times = [("pytorch", "torch-cpu", 30.0, 1.0), ("int8", "cpu", 10.0, 3.0)]
    latency = [
        {**place, "variant": variant, "provider": provider, "kind": kind, "batch_size": 1}
        | {"p50_ms": part * p50, "speedup_vs_pytorch": speedup}
        for variant, provider, p50, speedup in times
        for kind, part in (("picture", 0.3), ("first_token", 0.5), ("caption", 1))
    ]
    parity = row("parity", **place, kind="caption", passed=True, equal_tokens=0.9)
    export = row("export", model="m", variant="int8", graph="image", folder_bytes=2_000_000)
    timed = [row("latency", **found) for found in latency]
    rows = {"latency": timed, "parity": [parity], "export": [export]}
    records = {"retrieval": [], **{name: [{"rows": found}] for name, found in rows.items()}}
    summary = build({**records, "captions": captions}, 0.2)["summary"].set_index("variant")
    found = summary.loc["int8"]
    assert (found["agreement"], found["parity_passed"], found["status"]) == (0.8, True, "ok")
    assert 0.2 < found["agreement_low"] < 0.8 < found["agreement_high"]
    assert (found["query_p50_ms"], found["document_p50_ms"]) == (5, 10)
    assert (found["document_speedup"], found["best_for"][:7]) == (3, "fastest")
    assert summary.loc[["pytorch"], "agreement"].isna().all()
    strict = build({**records, "captions": captions})["summary"].set_index("variant")
    assert strict.loc["int8", "verdict"].startswith("agreement with PyTorch is 0.800 (0.2")
    limit = unsupported_record({**PLACE, "variant": "int8"}, UnsupportedError("No."), "captions")
    none = build({**records, "captions": [pytorch, limit]})["summary"].set_index("variant")
    assert np.isnan(none.loc["int8", "agreement"])
    assert none.loc["int8", "verdict"] == "unsupported: No."
