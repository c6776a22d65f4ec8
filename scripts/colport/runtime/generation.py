"""Greedy and beam search over a decoder's steps, in NumPy.

Token for token what ``generate`` of transformers 5.23 gives for the same logits
(``generation/utils.py: _sample, _beam_search``, ``generation/logits_process.py``), with its order
of rules, its float32 sums and its ends. Each row of a batch gives what it gives alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from colport.families.captions.generation import Generation

Step = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
"""``step(input_ids, parents)`` gives ``float32 [rows, vocabulary]``, the logits of the last place.

``input_ids`` is ``int64 [rows, tokens]``: first what the texts begin with, padded on the left by
:data:`PADDING`, then a token a row. ``parents`` is ``int64 [rows]``: the row of the step before
whose cache each row goes on from; ``None`` where these are the same rows.
"""

Told = Callable[[int, int], object]
"""Called with the place of a row and its new token, one after the other."""

PADDING = -1
"""No token, so that no rule takes it for one."""

_BLOCK = 512  # scores that are looked at as one, until it is known to hold a high one

_NONE = np.float32(-1e9)
"""Score of a text that there is not, as transformers has it."""


def generate(
    step: Step,
    begun: Sequence[Sequence[int]],
    generation: Generation,
    told: Told | None = None,
) -> list[np.ndarray]:
    """The tokens that follow what each text begins with.

    Args:
        step: The decoder, which keeps its cache itself. Rows that have ended may be left out of
            later steps.
        begun: Ids that each text begins with, at least one.
        generation: The settings.
        told: Told of every token as soon as it is chosen; greedy search alone has such a moment.

    Returns:
        ``int64 [tokens]`` a row, its end token included, without padding.

    Raises:
        ValueError: See :meth:`Generation.limit`; or there are beams, and someone to be told.
    """
    if generation.num_beams > 1 and told is not None:
        raise ValueError(
            f"stream: beam search chooses its tokens at the end, and num_beams is "
            f"{generation.num_beams}; allowed with it is num_beams=1."
        )
    rules = _Rules(generation, np.array([len(row) for row in begun]))
    ids = np.full((len(begun), rules.begin), PADDING)
    for row, first in zip(ids, begun, strict=True):
        row[-len(first) :] = first
    if generation.num_beams > 1:
        return _beams(step, ids, rules)
    return _greedy(step, ids, rules, told)


class _Rules:
    """What changes the scores of a next token, in the order of transformers.

    Args:
        generation: The settings.
        lengths: ``int64 [rows]``, tokens that each text begins with.

    Attributes:
        begin: Place behind what the texts begin with.
        limits: ``int64 [rows]``, the place before which each text ends.
        ends: Tokens that end a text.
    """

    def __init__(self, generation: Generation, lengths: np.ndarray) -> None:
        self.settings, self.begin = generation, int(lengths.max())
        of, padding = generation, self.begin - lengths
        self.ends = np.array(of.eos_token_id, np.int64)
        self.limits = padding + [of.limit(length) for length in lengths.tolist()]
        least = self.begin + (of.min_new_tokens or 0)
        self._least = np.maximum(least, padding + of.min_length * (of.min_new_tokens is None))
        self._second, bos = padding + 1, of.forced_bos_token_id
        self._bos = [] if bos is None else [bos]
        self._first = self.begin + (lengths == 1) * len(self._bos)
        words = [
            list(word) for word in of.bad_words_ids if list(word) not in self.ends[:, None].tolist()
        ]
        self._bad = [
            np.array([word for word in words if len(word) == size], np.int64)
            for size in sorted(set(map(len, words)))
        ]

    def ended(self, tokens: np.ndarray, length: int, places: np.ndarray) -> np.ndarray:
        """Whether each text ends with this token, its ``length``-th."""
        return np.isin(tokens, self.ends) | (length >= self.limits[places])

    def __call__(self, ids: np.ndarray, scores: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Scores by the rules, in place.

        Args:
            ids: ``int64 [rows, length]``, the texts as far as they are.
            scores: ``float32 [rows, vocabulary]``.
            places: ``int64 [rows]``, which text each is.
        """
        of, length, vocabulary = self.settings, ids.shape[1], scores.shape[1]
        if of.repetition_penalty != 1:
            row, column = np.nonzero(ids >= 0)
            at = _within(vocabulary, row, ids[row, column])
            found, penalty = scores[at], np.float32(of.repetition_penalty)
            scores[at] = np.where(found < 0, found * penalty, found / penalty)
        if 0 < (size := of.no_repeat_ngram_size) <= length:
            grams = sliding_window_view(ids, size, axis=1)
            same = (grams[..., :-1] == ids[:, None, length + 1 - size :]).all(-1)
            row, column = np.nonzero(same)
            scores[_within(vocabulary, row, grams[row, column, -1])] = -math.inf
        for words in self._bad:
            if (size := words.shape[1] - 1) <= length:
                same = (ids[:, None, length - size :] == words[:, :-1]).all(-1)
                row, word = np.nonzero(same)
                scores[row, words[word, -1]] = -math.inf
        _suppress(scores, length < self._least[places], self.ends)
        forced = (
            (self._second[places], self._bos),
            (self.limits[places] - 1, of.forced_eos_token_id),
        )
        for at, tokens in forced:
            if len(tokens) and (rows := length == at).any():
                scores[rows] = -math.inf
                scores[np.ix_(rows, tokens)] = 0
        _suppress(scores, np.ones(len(ids), bool), of.suppress_tokens)
        _suppress(scores, length == self._first[places], of.begin_suppress_tokens)
        return scores


def _within(vocabulary: int, row: np.ndarray, token: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and tokens without those of which the head knows nothing."""
    inside = (token >= 0) & (token < vocabulary)
    return row[inside], token[inside]


def _suppress(scores: np.ndarray, rows: np.ndarray, tokens: Sequence[int] | np.ndarray) -> None:
    # Lists of checkpoints hold -1 and more for no token.
    inside = [token for token in tokens if 0 <= token < scores.shape[1]]
    if inside and rows.any():
        scores[np.ix_(rows, inside)] = -math.inf


def _greedy(step: Step, begun: np.ndarray, rules: _Rules, told: Told | None) -> list[np.ndarray]:
    length = rules.begin
    ids = np.pad(begun, [(0, 0), (0, rules.limits.max() - length)])
    places, live = np.arange(len(ids)), np.ones(len(ids), bool)
    found: dict[int, np.ndarray] = {}
    fed, parents = begun, None
    while True:
        tokens = rules(ids[:, :length], step(fed, parents), places).argmax(1)
        ids[:, length] = tokens
        length += 1
        for row in np.flatnonzero(live) if told is not None else ():
            told(int(places[row]), int(tokens[row]))
        for row in np.flatnonzero(live & rules.ended(tokens, length, places)):
            found[places[row]] = ids[row, rules.begin : length].copy()
            live[row] = False
        if not live.any():
            return [found[place] for place in range(len(begun))]
        fed, parents = tokens[:, None], None
        if 2 * live.sum() <= len(live):  # a smaller cache is worth its copy
            parents = np.flatnonzero(live)
            ids, places, fed, live = ids[live], places[live], fed[live], live[live]


def _beams(step: Step, begun: np.ndarray, rules: _Rules) -> list[np.ndarray]:
    of, length, texts = rules.settings, rules.begin, len(begun)
    beams, kept = of.num_beams, max(2, 1 + len(rules.ends)) * of.num_beams
    running = np.zeros((texts, beams, rules.limits.max()), np.int64)
    running[:, :, :length] = begun[:, None]
    scores = np.full((texts, beams), _NONE)
    scores[:, 0] = 0
    # Of each text's best endings: the ids, their number, the score, and whether there is one.
    best = running, np.full((texts, beams), length), np.full((texts, beams), _NONE)
    best = *best, np.zeros((texts, beams), bool)
    penalty, found = float(of.length_penalty), {}
    is_far = of.early_stopping == "never" and penalty > 0
    places = np.arange(texts)
    # All beams of a text begin alike, so that its beginning is run once.
    logits, alike = np.repeat(step(begun, None), beams, axis=0), beams
    while True:
        flat = running[:, :, :length].reshape(-1, length)
        sums = rules(flat, _log_softmax(logits), np.repeat(places, beams))
        sums = (sums.reshape(len(places), beams, -1) + scores[:, :, None]).reshape(len(places), -1)
        at = _highest(sums, kept)
        sums, (beam, tokens) = _rows(sums, at), np.divmod(at, logits.shape[1])
        continued = _rows(running, beam)
        continued[:, :, length] = tokens
        length += 1
        ended = rules.ended(tokens, length, places[:, None])
        new = ended & (np.arange(kept) < beams)
        divisor = np.float32((length - rules.begin) ** penalty)
        ending = continued, np.full_like(tokens, length), sums / divisor + ~new * _NONE, new
        joined = [np.concatenate(pair, axis=1) for pair in zip(best, ending, strict=True)]
        best = tuple(_rows(values, _highest(joined[2], beams)) for values in joined)
        sums = sums + ended * _NONE
        on = _highest(sums, beams)
        running, scores = _rows(continued, on), _rows(sums, on)
        parents = (beams * np.arange(len(places))[:, None] + _rows(beam, on)) // alike
        limits = rules.limits[places]
        # Whether a text may get a better ending than the worst that it has.
        worst = np.where(best[3], best[2].min(1, keepdims=True), _NONE)
        reached = (limits if is_far else np.full_like(limits, length)) - rules.begin
        hope = scores[:, :1] / (reached[:, None] ** penalty).astype(np.float32)
        go = (length < limits) & (hope > worst).any(1)
        if of.early_stopping is True:
            go &= ~best[3].all(1)
        for row in np.flatnonzero(~go):
            found[places[row]] = best[0][row, 0, rules.begin : best[1][row, 0]].copy()
        if not go.any():
            return [found[place] for place in range(texts)]
        running, scores, places = running[go], scores[go], places[go]
        best = tuple(values[go] for values in best)
        logits, alike = step(running[:, :, length - 1].reshape(-1, 1), parents[go].reshape(-1)), 1


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(1, keepdims=True))
    return shifted


def _highest(scores: np.ndarray, count: int) -> np.ndarray:
    """Places of the highest scores of each row, in falling order; of equal ones the first.

    They lie in as many blocks, those with the highest maxima, so that few scores are sorted.
    """
    last = scores.shape[1] - 1
    maxima = np.maximum.reduceat(scores, np.arange(0, last + 1, _BLOCK), axis=1)
    blocks = np.sort(np.argsort(-maxima, axis=1, kind="stable")[:, :count], axis=1)
    at = (blocks[:, :, None] * _BLOCK + np.arange(_BLOCK)).reshape(len(scores), -1)
    found = np.where(at > last, -math.inf, _rows(scores, np.minimum(at, last)))
    return _rows(at, np.argsort(-found, axis=1, kind="stable")[:, :count])


def _rows(values: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Those of each row's entries that ``at [rows, entries]`` names."""
    return values[np.arange(len(at))[:, None], at]
