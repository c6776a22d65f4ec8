"""Scores of full embeddings alone, for the tests that ask for no smaller form."""

from colport.scoring.score import RunScores, score_forms


def score_run(queries, documents, qrels, **settings) -> RunScores:
    return score_forms(queries, documents, qrels, [], **settings)[0]
