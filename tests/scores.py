"""Parts of a score that tests ask for alone: no smaller form; the p-value, or the interval."""

from colport.scoring.score import RunScores, score_forms
from colport.scoring.statistics import paired_difference


def score_run(queries, documents, qrels, **settings) -> RunScores:
    return score_forms(queries, documents, qrels, [], **settings)[0]


def paired_randomisation(*values, **settings) -> float:
    return paired_difference(*values, **settings)[0]


def paired_interval(*values, **settings) -> tuple[float, float]:
    return paired_difference(*values, **settings)[1:]
