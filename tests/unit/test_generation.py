"""Greedy and beam search choose the tokens that transformers' ``generate`` chooses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
)

from colport.base.errors import ArtifactError, CheckpointError, UnsupportedError
from colport.families.captions.generation import Generation, stated
from colport.runtime.generation import generate

pytestmark = pytest.mark.filterwarnings("ignore:Using the model-agnostic default")

FOLDER = Path("folder")
VOCABULARY, POSITIONS, START = 40, 64, 3
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def sharp(model):
    """Weights with which texts differ, and end."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(0, 0.6, generator=generator)
    head = torch.randn(VOCABULARY, 32, generator=generator) * 0.35
    model.lm_head.weight = torch.nn.Parameter(head)
    return model.eval()


@pytest.fixture(scope="module")
def gpt2():
    sizes = {"n_positions": POSITIONS, "n_embd": 32, "n_layer": 2, "n_head": 2}
    return sharp(GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **sizes, **IDS)))


@pytest.fixture(scope="module")
def bart():
    sizes = {"d_model": 32, "max_position_embeddings": POSITIONS, "vocab_size": VOCABULARY}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_layers": 1, f"{part}_attention_heads": 2, f"{part}_ffn_dim": 32}
    given = {"decoder_start_token_id": START, "forced_eos_token_id": None}
    return sharp(BartForConditionalGeneration(BartConfig(**sizes, **given, **IDS)))


class Steps:
    """A decoder that computes every text anew, and counts the rows that it is asked for."""

    def __init__(self, model, states=None):
        self.model, self.states, self.ids, self.rows = model, states, None, []

    def __call__(self, ids, parents):
        self.rows.append(len(ids))
        if self.ids is None:
            self.ids = np.empty((len(ids), 0), np.int64)
        if parents is not None:
            self.ids = self.ids[parents]
            self.states = None if self.states is None else self.states[parents]
        self.ids = np.concatenate([self.ids, ids], axis=1)
        mask = torch.from_numpy(self.ids >= 0).long()
        tokens = torch.from_numpy(self.ids).clamp(min=0)
        with torch.inference_mode():
            if self.states is not None:
                given = {"encoder_outputs": (self.states,), "decoder_input_ids": tokens}
            else:
                places = (mask.cumsum(1) - 1).clamp(min=0)
                given = {"input_ids": tokens, "attention_mask": mask, "position_ids": places}
            return self.model(**given).logits[:, -1].numpy().copy()


def settings_of(given):
    config = GenerationConfig(**{**IDS, "decoder_start_token_id": START, **given})
    return config, Generation.of(stated(config, POSITIONS, FOLDER), FOLDER)


def cut(tokens, begun, ends):
    """A text without what it begins with, and without what stands behind its end."""
    text = tokens[begun:].tolist()
    first = [place for place, token in enumerate(text) if token in ends]
    return text[: first[0] + 1] if first else text


def expected(model, inputs, begun, config):
    ends = np.atleast_1d(config.eos_token_id)
    with torch.inference_mode():
        given = [model.generate(**row, generation_config=config)[0].numpy() for row in inputs]
    return [cut(row, length, ends) for row, length in zip(given, begun, strict=True)]


RULES = {
    "no_repeat_ngram_size": 2,
    "repetition_penalty": 1.3,
    "suppress_tokens": [4, -1, 9],
    "begin_suppress_tokens": [10, 2],
    "bad_words_ids": [[5], [2], [6, 7], [8, 9, 10]],
}
CASES = [
    {},
    {"max_length": 12},
    {"max_new_tokens": 25, "no_repeat_ngram_size": 3},
    {"max_new_tokens": 9, "min_length": 8, "forced_eos_token_id": 17},
    {"max_new_tokens": 20, "min_new_tokens": 6, **RULES},
    {"max_new_tokens": 12, "eos_token_id": [2, 17, 23], "forced_bos_token_id": 7},
]
BEAMS = [
    {"num_beams": 2},
    {"num_beams": 3, "early_stopping": True, "no_repeat_ngram_size": 3, "max_new_tokens": 25},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": "never", "max_length": 16},
    {"num_beams": 5, "length_penalty": -1.0, "max_new_tokens": 15, "eos_token_id": [2, 17]},
    {"num_beams": 4, "length_penalty": 0.0, "max_new_tokens": 12, "min_new_tokens": 3, **RULES},
    {"num_beams": 3, "forced_bos_token_id": 7, "forced_eos_token_id": 2, "max_length": 11},
]


@pytest.mark.parametrize("given", [*CASES, *BEAMS], ids=str)
def test_a_text_goes_on_as_transformers_says(gpt2, given):
    config, generation = settings_of(given)
    rng = np.random.default_rng(3)
    begun = [rng.integers(4, VOCABULARY, length).tolist() for length in (1, 3, 6, 3)]
    found = generate(Steps(gpt2), begun, generation)
    inputs = [{"input_ids": torch.tensor([row])} for row in begun]
    wanted = expected(gpt2, inputs, map(len, begun), config)
    assert [row.tolist() for row in found] == wanted


@pytest.mark.parametrize("given", [*CASES, *BEAMS], ids=str)
def test_an_encoders_states_are_put_in_words_as_transformers_does(bart, given):
    config, generation = settings_of(given)
    source = torch.from_numpy(np.random.default_rng(4).integers(4, VOCABULARY, (4, 6)))
    with torch.inference_mode():
        states = bart.get_encoder()(source).last_hidden_state
    found = generate(Steps(bart, states), [[START]] * 4, generation)
    wanted = expected(bart, [{"input_ids": row[None]} for row in source], [1] * 4, config)
    assert [row.tolist() for row in found] == wanted
    assert len(set(map(tuple, wanted))) > 1


class Counting:
    """Logits that name the next token: row ``n`` counts up to its end after ``n`` tokens."""

    def __init__(self, lengths):
        self.left, self.rows = np.array(lengths), []

    def __call__(self, ids, parents):
        if parents is not None:
            self.left = self.left[parents]
        self.rows.append(len(ids))
        self.left = self.left - 1
        tokens = np.where(self.left > 0, 5 + self.left, 2)
        return np.where(np.arange(VOCABULARY) == tokens[:, None], 9.0, 0.0).astype(np.float32)


def test_rows_that_have_ended_leave_the_batch():
    step = Counting([1, 2, 8, 4])
    found = generate(step, [[START]] * 4, settings_of({"max_new_tokens": 20})[1])
    assert [len(row) for row in found] == [1, 2, 8, 4]
    assert step.rows == [4, 4, 2, 2, 1, 1, 1, 1]


def test_tokens_are_told_as_they_are_chosen():
    told = []
    _, generation = settings_of({"max_new_tokens": 3})
    found = generate(Counting([2, 9]), [[START]] * 2, generation, lambda *new: told.append(new))
    assert told == [(0, 6), (1, 13), (0, 2), (1, 12), (1, 11)]
    assert [row.tolist() for row in found] == [[6, 2], [13, 12, 11]]
    beams = settings_of({"num_beams": 2})[1]
    with pytest.raises(ValueError, match=r"^stream: .* num_beams is 2; allowed .* num_beams=1\.$"):
        generate(Counting([2]), [[START]], beams, lambda *new: None)


def test_a_length_that_the_decoder_does_not_have_is_refused():
    with pytest.raises(ValueError, match=r"^max_new_tokens: found 63; behind 3 .* for 62 more\.$"):
        settings_of({"max_new_tokens": 63})[1].limit(3)
    assert settings_of({"max_new_tokens": 62})[1].limit(3) == POSITIONS + 1
    with pytest.raises(
        ValueError, match=r"^prompt: has 9 tokens, .* allows 9; give max_new_tokens\.$"
    ):
        settings_of({"max_length": 9})[1].limit(9)
    with pytest.raises(CheckpointError, match="max_length is 66, allowed is 1 to 65"):
        settings_of({"max_length": 66})


@pytest.mark.parametrize(
    ("key", "value"),
    [("do_sample", True), ("num_return_sequences", 2), ("encoder_no_repeat_ngram_size", 3)],
)
def test_a_setting_that_is_not_built_is_refused_by_name(key, value):
    given = {key: value, "num_beams": 2}
    with pytest.raises(UnsupportedError, match=rf"^folder: .* say {key}: {value}; "):
        settings_of(given)


def test_settings_of_no_influence_are_left_out():
    config, _ = settings_of({"temperature": 0.7, "top_k": 5, "do_sample": False, "max_length": 9})
    found = stated(config, POSITIONS, FOLDER)
    assert found == {"positions": 64, "max_length": 9, "eos_token_id": [2]}


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"num_beams": 0}, "num_beams is 0, allowed is 1 and more"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0, allowed is more than 0"),
        ({"forced_eos_token_id": [2, 5]}, r"forced_eos_token_id is \[2, 5\], allowed is one token"),
        ({"early_stopping": "late"}, "early_stopping is 'late', allowed is true, false, never"),
        ({"eos_token_id": 2}, "eos_token_id is int, expected a list"),
        ({"top_k": 2}, "top_k is unknown here"),
    ],
)
def test_a_folders_damaged_settings_are_refused(setting, sentence):
    with pytest.raises(ArtifactError, match=rf"colport.json: processing\.generation\.{sentence}"):
        Generation.of({"positions": 9, **setting}, FOLDER)
