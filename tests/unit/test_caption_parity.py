"""A captioner beside its library: tokens, the place where they part, and logits behind one text."""

import numpy as np
import pytest

from colport.base.columns import TABLES
from colport.base.errors import UnsupportedError
from colport.measure import captions, embedders, parity
from colport.tables import flatten
from colport.tables.summary import _parity_passed

LABELS = {"model": "m", "variant": "int8", "provider": "cpu"}
TEXTS = [np.array([1, 5, 6, 2]), np.array([1, 7, 2])]
EXACT = parity.Tolerance(max_abs_diff=1e-3, min_cosine=0.9)
WORDS = 9


class Captioner:
    """Says the texts of pictures, which are their places, by greedy search and by another."""

    def __init__(self, greedy=TEXTS, own=TEXTS, moved=0.0):
        self.searches, self.moved, self.calls = {True: greedy, False: own}, moved, []

    def generate_tokens(self, pictures, prompt=None, num_beams=None, batch_size=None):
        self.calls.append((batch_size, prompt))
        return [self.searches[num_beams == 1][picture] for picture in pictures]

    def logits(self, pictures, tokens, prompt=None):
        """Those of the greedy texts are highest by one."""
        rows = np.zeros((1, tokens.shape[1], WORDS), np.float32)
        for place, token in enumerate(tokens[0, 1:]):
            rows[0, place, token] = 1
        rows[0, :, 4] = 0.75 + self.moved
        return rows


def compared(captioner, tolerance=EXACT, batch_sizes=(1, 4)):
    prompts = [None, "a"]
    known = captions.standard(Captioner(), [0, 1], prompts)
    return captions.measure(captioner, [0, 1], prompts, known, batch_sizes, tolerance, LABELS)


def test_equal_tokens_pass():
    captioner = Captioner()
    record = compared(captioner)
    (row,) = record["rows"]
    assert tuple(row) == TABLES["parity"].all
    assert (row["kind"], row["inputs"], row["tokens"]) == ("caption", 2, 7)
    assert (row["passed"], row["equal_tokens"], row["parted_at"]) == (True, 1, "")
    assert (row["max_abs_diff"], record["parted"]) == (0, [])
    assert captioner.calls == [(size, [None, "a"]) for size in (1, 4, 1, 4)]
    assert _parity_passed(flatten("parity", [record])) is True


def test_the_first_other_token_is_named_with_both_margins():
    other = [np.array([1, 4, 2]), TEXTS[1]]
    record = compared(Captioner(greedy=other, moved=0.5), parity.Tolerance(max_abs_diff=1))
    (row,) = record["rows"]
    assert (row["passed"], row["status"], row["equal_tokens"]) == (False, "failed", 0.75)
    told = "greedy search, batch size 1, input 0, token 1, by 0.25 of a logit for 0.25 in PyTorch"
    assert row["parted_at"] == told
    assert row["reason"] == f"tokens part: {told}"
    place = {"search": "greedy", "input": 0, "token": 1, "margin": 0.25, "reference_margin": 0.25}
    assert record["parted"] == [{**place, "batch_size": size} for size in (1, 4)]
    assert _parity_passed(flatten("parity", [record])) is False


@pytest.mark.parametrize(("text", "place"), [([1, 5, 6], 3), ([1, 5, 6, 2, 2], 4)])
def test_a_text_that_ends_elsewhere_parts_there(text, place):
    record = compared(Captioner(own=[np.array(text), TEXTS[1]]), batch_sizes=[2])
    assert record["parted"] == [{"search": "own", "batch_size": 2, "input": 0, "token": place}]
    told = f"own search, batch size 2, input 0, token {place}"
    assert record["rows"][0]["parted_at"] == told


def test_a_variant_that_may_differ_is_judged_by_its_logits():
    other = Captioner(greedy=[TEXTS[1], TEXTS[1]], moved=0.5)
    (row,) = compared(other, parity.Tolerance(min_cosine=0.5))["rows"]
    assert (row["passed"], row["equal_tokens"]) == (True, 0.75)
    (row,) = compared(other, parity.Tolerance(min_cosine=0.999))["rows"]
    assert row["reason"].startswith("min_cosine 0.9")
    (row,) = compared(Captioner(moved=0.5))["rows"]
    assert row["reason"] == "max_abs_diff 0.5 > 0.001"


def test_a_known_limit_is_a_row_of_captions():
    record = parity.unsupported(LABELS, UnsupportedError("No."), [captions.KIND])
    assert [(row["kind"], row["status"]) for row in record["rows"]] == [("caption", "unsupported")]


def test_a_provider_of_another_python_is_a_known_limit(tmp_path):
    with pytest.raises(UnsupportedError, match="provider: python: found"):
        captions.load(tmp_path, {"type": "cpu", "python": "/usr/bin/python3"})
    with pytest.raises(UnsupportedError, match="provider: python: found"):  # of a latency run
        embedders.load(tmp_path, {"type": "cpu", "python": "/usr/bin/python3"}, tokens=4)
