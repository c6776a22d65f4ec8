"""Captions, lines of text and answers beside their references: CER, WER, BLEU-4, CIDEr-D, ANLS."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from math import exp, hypot, log
from typing import Any

import numpy as np

from colport.base import machine
from colport.base.columns import row
from colport.base.errors import ArtifactError
from colport.scoring import statistics as inference
from colport.scoring.controls import TOKEN_PATTERN
from colport.scoring.record import estimated
from colport.scoring.statistics import Whole

CAPTION_METRICS = ("cer", "wer", "bleu4", "cider", "anls")
"""Columns. Of ``cer`` and ``wer`` lower is better, of the others higher."""

_ORDERS, _SIGMA = 4, 6.0
"""Of CIDEr-D: its longest n-grams, and the deviation, in words, of its penalty for the length."""


def measured(
    captions: Sequence[str], references: Sequence[Sequence[str]], *, are_answers: bool = False
) -> dict[str, Whole]:
    """The metrics of :data:`CAPTION_METRICS` that a dataset has.

    CER and WER are the edits (Levenshtein's distance) of all captions over the length of their
    references, in characters and in words between blanks, upper and lower case told apart and runs
    of blanks one; of several references of a picture that with the lowest rate counts. BLEU-4 is
    sacrebleu's, from 0 to 100, of lower-cased texts (Papineni et al., ACL 2002; Post, WMT 2018).
    CIDEr is :func:`cider`. ANLS is that of Biten et al., ICCV 2019, by ``anls-star``.

    Args:
        captions: One a picture.
        references: One or more a picture, none empty.
        are_answers: Whether they answer questions; ANLS is of those alone.
    """
    from rapidfuzz.distance import Levenshtein
    from sacrebleu.metrics import BLEU

    bleu = BLEU(lowercase=True, effective_order=True)  # as it asks for where captions come singly
    edits: dict[str, list[tuple[float, float]]] = {"cer": [], "wer": []}
    grams = []
    for caption, known in zip(captions, references, strict=True):
        for name, cut in (("cer", " ".join), ("wer", list)):
            own, others = cut(caption.split()), [cut(text.split()) for text in known]
            found = [(Levenshtein.distance(own, other), len(other)) for other in others]
            edits[name].append(min(found, key=lambda pair: pair[0] / pair[1]))
        score = bleu.sentence_score(caption, list(known))
        grams.append([score.sys_len, score.ref_len, *score.counts, *score.totals])
    ones = np.ones(len(captions))
    scores = {"cider": cider(captions, references)}
    if are_answers:
        from anls_star import anls_score

        pairs = zip(references, captions, strict=True)
        scores["anls"] = np.array([anls_score(tuple(known), own) for known, own in pairs])
    return {
        **{name: Whole(np.array(pairs, float), _ratio) for name, pairs in edits.items()},
        "bleu4": Whole(np.array(grams), _bleu),
        **{name: Whole(np.stack([v, ones], axis=1), _ratio) for name, v in scores.items()},
    }


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """CIDEr-D of each caption, 0 to 10 (Vedantam, Zitnick and Parikh, CVPR 2015).

    Words are lower-cased runs of letters and digits without stemming, punctuation is left out: not
    the Penn Treebank's, so a value differs a little from that of COCO's own evaluation. How rare an
    n-gram is comes from these references: values of different datasets, or of few pictures and
    many, do not compare, and that of a single picture is 0.

    Args:
        captions: One a picture.
        references: One or more a picture.
    """
    words = re.compile(TOKEN_PATTERN)

    def counted(text: str) -> list[Counter[tuple[str, ...]]]:
        found = words.findall(text.lower())
        return [Counter(zip(*(found[at:] for at in range(n)))) for n in range(1, _ORDERS + 1)]  # noqa: B905

    known = [[counted(text) for text in texts] for texts in references]
    pictures = Counter(chain.from_iterable({*chain(*chain(*texts))} for texts in known))
    rarest = log(len(references))

    def weighted(counts: list[Counter[tuple[str, ...]]]) -> list[dict[tuple[str, ...], float]]:
        return [
            {gram: times * (rarest - log(max(1, pictures[gram]))) for gram, times in order.items()}
            for order in counts
        ]

    def similarity(own: list[Counter], other: list[Counter]) -> float:
        total = 0.0
        for one, two in zip(weighted(own), weighted(other), strict=True):
            if norm := hypot(*one.values()) * hypot(*two.values()):
                both = one.keys() & two.keys()
                total += sum(min(one[gram], two[gram]) * two[gram] for gram in both) / norm
        apart = own[0].total() - other[0].total()
        return total / _ORDERS * exp(-(apart**2) / (2 * _SIGMA**2))

    return np.array(
        [
            10 * float(np.mean([similarity(own, other) for other in others]))
            for own, others in zip(map(counted, captions), known, strict=True)
        ]
    )


def caption_record(
    labels: Mapping[str, str],
    captions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    reference: Mapping[str, str] | None,
    settings: Mapping[str, Any],
    *,
    are_answers: bool = False,
) -> dict[str, Any]:
    """The JSON payload of one job that scored captions, with its row of ``captions.csv``.

    Args:
        labels: As for :func:`colport.scoring.record.retrieval_record`.
        captions: Id of a picture, or of a question about one, to what was generated.
        references: Id to the references of the dataset.
        reference: PyTorch's captions of the same dataset; ``None`` if these are those.
        settings: Stored as given; ``confidence``, ``resamples`` and ``seed`` steer the statistics.
        are_answers: Whether the references answer questions.

    Returns:
        ``rows``; ``statistics`` of each metric as of retrieval; ``per_picture`` (metric to id to
        the caption's own value, for those that a caption has), ``captions``, ``environment`` and
        ``settings``, which say how words are told apart. The row's ``metric`` is ``anls`` for
        answers, ``cider`` where a picture has several references, else ``cer``.

    Raises:
        ArtifactError: Captions, references and PyTorch's captions are not of the same pictures.
    """
    from sacrebleu.metrics import BLEU

    others = captions if reference is None else reference
    if not captions.keys() == references.keys() == others.keys():
        raise ArtifactError(
            f"There are captions of {len(captions)} pictures, references of {len(references)} and "
            f"captions by PyTorch of {len(others)}; they must be the same to be compared."
        )
    known = [references[name] for name in captions]
    bleu = BLEU(lowercase=True, references=[*zip_longest(*known)]).get_signature()
    words = {"bleu": str(bleu), "cider": f"{TOKEN_PATTERN}, lower case"}
    used = {**inference.SETTINGS, **settings, "words": words}
    metrics, theirs = (
        measured([texts[name] for name in captions], known, are_answers=are_answers)
        for texts in (captions, others)
    )
    statistics = {
        name: estimated(metric, theirs[name], reference is None, used)
        for name, metric in metrics.items()
    }
    headline = "anls" if are_answers else "cider" if max(map(len, known)) > 1 else "cer"
    found = statistics[headline]
    figures = {key: found[key] for key in ("delta", "delta_low", "delta_high", "p_value")}
    figures |= {"score": found["mean"], "score_low": found["low"], "score_high": found["high"]}
    equal = [float(text.split() == others[name].split()) for name, text in captions.items()]
    figures["equal"] = float(np.mean(equal))
    if reference is not None:
        figures |= zip(
            ("equal_low", "equal_high"), inference.share_interval([equal], [1]), strict=True
        )
    figures |= {name: values["mean"] for name, values in statistics.items()}
    figures |= {"captions": len(captions), "metric": headline}
    return {
        "rows": [row("captions", **labels, **figures)],
        "statistics": statistics,
        "per_picture": {
            name: dict(zip(captions, metric.of(metric.parts).tolist(), strict=True))
            for name, metric in metrics.items()
            if name != "bleu4"  # which no single caption has
        },
        "captions": dict(captions),
        "environment": machine.describe(),
        "settings": used,
    }


def _ratio(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def _bleu(sums: np.ndarray) -> np.ndarray:
    from sacrebleu.metrics import BLEU

    def score(parts: np.ndarray) -> float:
        lengths, correct, total = np.split(parts, [2, 6])
        return BLEU.compute_bleu(correct, total, *lengths, smooth_method="exp").score

    return np.apply_along_axis(score, -1, np.rint(sums).astype(int))
