"""Attention functions of the families: what they write, and that all else is refused by name."""

import types

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from colport.base.errors import UnsupportedError
from colport.families.attention import _attend
from colport.families.attention import attention as attention_of_graphs
from colport.families.pages.qwen_vl import _page_attention

MODULE = types.SimpleNamespace(is_causal=False)
MASK = torch.zeros(2, 1, 1, 5)


def states(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 2, 5, 4, generator=generator) for _ in range(3)]


SLOTS = {
    "page_slots": torch.arange(5)[None],
    "page_lengths": torch.tensor([5]),
    "patch_slots": torch.arange(5),
    "scaling": 0.5,
}


def text(mask=MASK, **settings):
    return _attend(MODULE, *states(), mask, **settings)


def pages(mask=None, **settings):
    one = [part[:1] for part in states()]
    return _page_attention(MODULE, *one, mask, **SLOTS, **settings)


CHANGING = {
    **dict.fromkeys(("s_aux", "head_mask", "indices", "alibi", "something"), torch.ones(2)),
    "softcap": 30.0,
    "dropout": 0.1,
    "flag": False,
}


def test_heads_share_keys_in_groups_and_padding_is_not_seen():
    """As in torch: heads 0 and 1 read the first key head, 2 and 3 the second."""
    query = torch.randn(2, 4, 5, 4, generator=torch.Generator().manual_seed(1))
    _, key, value = states()
    places = torch.arange(5) < torch.tensor([5, 3])[:, None]
    mask = places[:, None, None].expand(2, 1, 5, 5)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, mask, scale=0.3, enable_gqa=True
    )
    for given in ((None, torch.tensor([5, 3])), (torch.where(mask, 0.0, -torch.inf), None)):
        found = attention_of_graphs(query, key, value, *given, 0.3)
        assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("name", CHANGING)
@pytest.mark.parametrize("attention", [text, pages])
def test_a_keyword_that_may_change_the_result_is_refused_by_name(attention, name):
    with pytest.raises(UnsupportedError, match=rf"attention's {name} is not exported"):
        attention(**{name: CHANGING[name]})


@pytest.mark.parametrize("attention", [text, pages])
def test_keywords_that_change_nothing_are_taken(attention):
    idle = {
        **dict.fromkeys(("s_aux", "softcap", "something")),
        **{"dropout": 0.0, "is_causal": False, "output_attentions": False, "use_cache": False},
        **{"cu_seq_lens_q": torch.ones(2), "max_length_q": 3, "position_ids": torch.ones(2)},
    }
    assert torch.equal(attention(**idle)[0], attention()[0])


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"is_causal": True}, "is_causal"),
        ({"is_causal": False, "sliding_window": 4}, "sliding_window"),
    ],
)
def test_what_a_mask_would_say_is_refused_without_one(settings, name):
    with pytest.raises(UnsupportedError, match=f"attention's {name} is not exported"):
        text(None, **settings)
    text(**settings)
    causal = types.SimpleNamespace(is_causal=True)
    with pytest.raises(UnsupportedError, match="attention's is_causal is not exported"):
        _attend(causal, *states(), None)


def test_pages_take_no_mask_and_no_bias():
    for settings in ({"mask": MASK}, {"position_bias": MASK}, {"is_causal": True}):
        with pytest.raises(UnsupportedError, match="is not exported"):
            pages(**settings)


MASKS = {
    "none": None,
    "added": torch.where(torch.rand(2, 1, 5, 5) > 0.4, 0.0, -1e4),
    "boolean": torch.rand(2, 1, 5, 5) > 0.4,
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("bias", [None, torch.randn(1, 2, 5, 5)])
def test_masks_and_position_biases_are_those_of_transformers(mask, bias):
    module = torch.nn.Module()
    module.is_causal = False
    given = MASKS[mask] if mask != "boolean" else MASKS[mask] | torch.eye(5, dtype=torch.bool)
    expected = sdpa_attention_forward(module, *states(), given, scaling=0.3, position_bias=bias)
    found = _attend(module, *states(), given, scaling=0.3, position_bias=bias)
    torch.testing.assert_close(found[0], expected[0])


@pytest.mark.parametrize("mask", [torch.ones(2, 5), torch.ones(2, 1, 1, 5, dtype=torch.int64)])
def test_a_mask_of_another_form_is_refused(mask):
    with pytest.raises(UnsupportedError, match=r"has a mask of torch\.\w+ and \d axes"):
        text(mask)
