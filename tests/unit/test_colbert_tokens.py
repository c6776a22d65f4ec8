"""Texts to token ids, masks and kept tokens, by settings, on a tokenizer of a few words."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from colport.base.names import KINDS
from colport.families import colbert, registry
from colport.families.text import tokenization
from colport.families.text.reference import Reference
from colport.families.tokens import Tokens

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[Q]", "[D]", "a", "b", "c", "d", ".", "q:"]
IDS = {word: index for index, word in enumerate(WORDS)}
PLAIN = {
    "prompts": {"query": "", "document": ""},
    "markers": {"query": None, "document": None},
    "max_length": {"query": None, "document": None},
    "expansion": None,
    "skiplist": [],
    "skiplist_kinds": [],
    "strip": False,
    "lowercase": False,
    "token_type_ids": False,
    "pad_id": 0,
    "padding_side": "right",
    "truncation_side": "right",
}
FIXED = {"strategy": "fixed", "length": 6, "attend": False, "token_id": IDS["[MASK]"]}
MINIMUM = {**FIXED, "strategy": "min"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    tokenizer = Tokenizer(WordLevel(IDS, "[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def read(folder):
    """Rows of words with what is attended in capitals, ``_`` padding, and which are kept."""

    def batch(kind, texts, **settings):
        runtime = registry.get("colbert").runtime({**PLAIN, **settings}, folder)
        found = (runtime.query_batch if kind == "query" else runtime.document_batch)(texts)
        assert found.graph == "text"
        assert found.feeds["input_ids"].dtype == found.feeds["attention_mask"].dtype == np.int64
        assert found.keep.dtype == bool
        rows = []
        for ids, mask, keep in zip(*found.feeds.values(), found.keep, strict=True):
            parts = zip(ids, mask, keep, strict=True)
            rows.append(
                " ".join(f"{WORDS[i]}{'' if m else '-'}{'' if k else '!'}" for i, m, k in parts)
            )
        return rows

    return batch


def test_a_text_is_padded_to_the_longest(read):
    assert read("query", ["a b", "c"]) == ["[CLS] a b [SEP]", "[CLS] c [SEP] [PAD]-!"]
    assert read("document", ["c", "a b"], padding_side="left") == [
        "[PAD]-! [CLS] c [SEP]",
        "[CLS] a b [SEP]",
    ]


def test_each_kind_has_a_limit_and_a_prompt_of_its_own(read):
    settings = {
        "max_length": {"query": 4, "document": 5},
        "prompts": {"query": "q: ", "document": "d "},
    }
    assert read("query", ["a b c d"], **settings) == ["[CLS] q: a [SEP]"]
    assert read("document", ["a b c d"], **settings) == ["[CLS] d a b [SEP]"]
    left = {**settings, "truncation_side": "left"}
    assert read("document", ["a b c d"], **left) == ["[CLS] b c d [SEP]"]


def test_a_marker_stands_behind_the_first_token_and_counts(read):
    settings = {
        "markers": {"query": IDS["[Q]"], "document": IDS["[D]"]},
        "max_length": {"query": 5, "document": 6},
    }
    assert read("query", ["a b c d", "a"], **settings) == [
        "[CLS] [Q] a b [SEP]",
        "[CLS] [Q] a [SEP] [PAD]-!",
    ]
    assert read("document", ["a b c d"], **settings) == ["[CLS] [D] a b c [SEP]"]
    alone = {**settings, "markers": {"query": None, "document": IDS["[D]"]}}
    assert read("query", ["a b c d"], **alone) == ["[CLS] a b c [SEP]"]


@pytest.mark.parametrize("limit", [None, 4, 9])
def test_an_expansion_of_fixed_length_is_the_length(read, limit):
    settings = {"expansion": FIXED, "max_length": {"query": limit, "document": 4}}
    assert read("query", ["a", "a b c d a b"], **settings) == [
        "[CLS] a [SEP] [MASK]- [MASK]- [MASK]-",
        "[CLS] a b c d [SEP]",
    ]
    assert read("document", ["a b c"], **settings) == ["[CLS] a b [SEP]"]


def test_an_expansion_is_at_least_its_length(read):
    def widths(limit, texts):
        settings = {"expansion": MINIMUM, "max_length": {"query": limit, "document": None}}
        return read("query", texts, **settings)

    long = "a b c d a b c d"
    assert widths(None, ["a", long]) == [
        "[CLS] a [SEP] [MASK]- [MASK]- [MASK]- [PAD]-! [PAD]-! [PAD]-! [PAD]-!",
        f"[CLS] {long} [SEP]",
    ]
    assert widths(8, [long]) == ["[CLS] a b c d a b [SEP]"]
    # A limit below the expansion cuts nothing that the expansion would fill.
    assert widths(4, [long]) == ["[CLS] a b c d [SEP]"]
    assert widths(4, ["a"]) == ["[CLS] a [SEP] [MASK]- [MASK]- [MASK]-"]


def test_expansion_tokens_may_be_attended(read):
    settings = {"expansion": {**FIXED, "attend": True}}
    assert read("query", ["a"], **settings) == ["[CLS] a [SEP] [MASK] [MASK] [MASK]"]


def test_a_marker_has_its_place_within_the_expansion(read):
    settings = {"expansion": FIXED, "markers": {"query": IDS["[Q]"], "document": None}}
    assert read("query", ["a", "a b c d a"], **settings) == [
        "[CLS] [Q] a [SEP] [MASK]- [MASK]-",
        "[CLS] [Q] a b c [SEP]",
    ]


@pytest.mark.parametrize("kinds", [[], ["query"], ["document"], ["query", "document"]])
def test_words_of_the_skiplist_are_not_kept_where_it_counts(read, kinds):
    settings = {"skiplist": [IDS["."], IDS["b"]], "skiplist_kinds": kinds}
    for kind in ("query", "document"):
        skipped = "[CLS] a b! .! [SEP]" if kind in kinds else "[CLS] a b . [SEP]"
        assert read(kind, ["a b ."], **settings) == [skipped]
    filled = {**settings, "expansion": {**FIXED, "token_id": IDS["."]}}
    shown = ".-!" if "query" in kinds else ".-"
    assert read("query", ["a"], **filled) == [f"[CLS] a [SEP] {shown} {shown} {shown}"]


@pytest.mark.parametrize(
    ("strip", "lowercase", "expected"),
    [
        (False, False, "[CLS] q: [UNK] [SEP]"),
        (True, True, "[CLS] q: a [SEP]"),
        (True, False, "[CLS] q: [UNK] [SEP]"),
    ],
)
def test_a_text_is_cleaned_with_its_prompt(read, strip, lowercase, expected):
    settings = {"prompts": {"query": " Q: ", "document": ""}, "strip": strip}
    if not lowercase:
        settings["prompts"] = {"query": " q: ", "document": ""}
    assert read("query", ["A  "], **settings, lowercase=lowercase) == [expected]


def test_outer_spaces_go_where_the_library_strips(folder):
    seen = []
    runtime = registry.get("colbert").runtime({**PLAIN, "strip": True}, folder)
    encode = runtime._tokens.encode
    runtime._tokens.encode = lambda texts, limit: seen.extend(texts) or encode(texts, limit)
    runtime.query_batch([" a "])
    runtime._settings = {**PLAIN, "strip": False}
    runtime.query_batch([" a "])
    assert seen == ["a", " a "]


def test_token_types_are_zeros_where_the_backbone_takes_them(folder):
    for takes in (True, False):
        runtime = registry.get("colbert").runtime({**PLAIN, "token_type_ids": takes}, folder)
        feeds = runtime.query_batch(["a b", "a"]).feeds
        assert ("token_type_ids" in feeds) == takes
        if takes:
            np.testing.assert_array_equal(feeds["token_type_ids"], np.zeros((2, 4)))


def test_rows_are_padded_to_a_width_of_one_at_least(folder):
    tokens = Tokens(folder / "tokenizer.json", 9, "right")
    assert tokens.pad([[]]).ids.tolist() == [[9]]
    assert tokens.pad([[], [1, 2]]).mask.tolist() == [[0, 0], [1, 1]]
    assert tokens.pad([[1]], 3).ids.tolist() == [[1, 9, 9]]
    assert tokens.pad([[1, 2, 3, 4]], 3).ids.tolist() == [[1, 2, 3, 4]]
    assert Tokens(folder / "tokenizer.json", 9, "left").pad([[1]], 3).ids.tolist() == [[9, 9, 1]]


def test_a_limit_holds_for_one_call(folder):
    tokens = Tokens(folder / "tokenizer.json", 0, "right")
    assert tokens.encode(["a b c"], 3) == [[2, 7, 3]]
    assert tokens.encode(["a b c"]) == [[2, 7, 8, 9, 3]]
    assert tokens.encode(["a b c"], 3) == [[2, 7, 3]]
    assert tokens.spans("a bb c") == [(0, 0), (0, 1), (2, 4), (5, 6), (0, 0)]


# What each library's settings mean.


def checkpoint(library, **settings):
    return SimpleNamespace(library=library, settings=settings, folder="f", backbone="b")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            (checkpoint("stanford", query_maxlen=32, doc_maxlen=180), {}),
            {"query": 32, "document": 180},
        ),
        (
            (checkpoint("pylate", query_length=24, document_length=300), {}),
            {"query": 24, "document": 300},
        ),
        ((checkpoint("sentence-transformers"), {}), {"query": 512, "document": 512}),
        (
            (checkpoint("sentence-transformers"), {"query_length": 20}),
            {"query": 20, "document": 512},
        ),
        (
            (checkpoint("sentence-transformers"), {"document_length": 20, "max_seq_length": None}),
            {"query": None, "document": 20},
        ),
        (
            (checkpoint("sentence-transformers"), {"max_seq_length": 10**30}),
            {"query": None, "document": None},
        ),
        (
            (checkpoint("sentence-transformers"), {"max_seq_length": 10**6}),
            {"query": None, "document": None},
        ),
    ],
)
def test_lengths(given, expected):
    source, values = given
    plain = {"query_length": None, "document_length": None, "max_seq_length": 512}
    assert tokenization._lengths(source, SimpleNamespace(**{**plain, **values})) == expected


class Vocabulary:
    """What is asked of a tokenizer."""

    mask_token, eos_token, unk_token, unk_token_id = "[MASK]", "[SEP]", "[UNK]", 1

    def convert_tokens_to_ids(self, words):
        if isinstance(words, str):
            return IDS.get(words, 1)
        return [IDS.get(word, 1) for word in words]

    def get_vocab(self):
        return IDS

    def encode(self, word, add_special_tokens):
        assert add_special_tokens is False
        return [IDS.get(part, 1) for part in word.split("-")]


def test_an_expansion_s_token_is_named_or_the_mask_or_the_end():
    def token_of(named, mask="[MASK]"):
        vocabulary = Vocabulary()
        vocabulary.mask_token = mask
        given = {"strategy": "min", "length": 7, "attend": True, "token": named}
        found = tokenization._expansion(SimpleNamespace(query_expansion=given), vocabulary)
        assert {**found, "token_id": 0} == {
            **{"strategy": "min", "length": 7, "attend": True, "token_id": 0}
        }
        return WORDS[found["token_id"]]

    assert token_of("a") == "a"
    assert token_of(None) == "[MASK]"
    assert token_of(None, mask=None) == "[SEP]"
    none = SimpleNamespace(query_expansion=None)
    assert tokenization._expansion(none, Vocabulary()) is None


def test_a_skiplist_by_each_library_s_rule():
    words = ["a", "none-such", "[UNK]", "b-c"]
    assert {
        library: tokenization._skiplist(checkpoint(library), words, Vocabulary())
        for library in ("stanford", "pylate", "sentence-transformers")
    } == {
        "stanford": [IDS["a"], 1, 1, IDS["b"]],  # the first piece of each word
        "pylate": [IDS["a"], 1, 1, 1],
        "sentence-transformers": [IDS["a"], 1],
    }


def test_markers_by_each_library_s_rule():
    def marker(source, kind):
        return tokenization._marker(source, Vocabulary(), kind)

    stanford = checkpoint("stanford", query_token_id="[Q]", doc_token_id="[D]")
    pylate = checkpoint("pylate", query_prefix="[Q]", document_prefix="")
    own = checkpoint("sentence-transformers")
    assert [marker(stanford, kind) for kind in KINDS] == [IDS["[Q]"], IDS["[D]"]]
    assert [marker(pylate, kind) for kind in KINDS] == [IDS["[Q]"], None]
    assert [marker(own, kind) for kind in KINDS] == [None, None]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, math.inf),
        ({"positions": 40}, 40),
        ({"max_length": {"query": 8, "document": 20}}, 20),
        ({"max_length": {"query": 80, "document": 20}, "positions": 40}, 40),
        ({"max_length": {"query": 8, "document": None}}, math.inf),
        ({"max_length": {"query": 8, "document": 5}, "expansion": FIXED}, 6),
        ({"max_length": {"query": 4, "document": 5}, "expansion": MINIMUM}, 6),
        ({"max_length": {"query": 8, "document": 5}, "expansion": MINIMUM}, 8),
    ],
)
def test_how_many_tokens_a_graph_is_given(given, expected):
    assert colbert._longest({**PLAIN, "positions": None, **given}) == expected


@pytest.mark.parametrize(
    ("kind", "prompts", "default", "chosen"),
    [
        ("query", {"query": "Q:", "document": "D:"}, None, "Q:"),
        ("document", {"corpus": "C:", "passage": "P:", "document": "D:"}, None, "D:"),
        ("document", {"corpus": "C:", "passage": "P:"}, None, "P:"),
        ("document", {"corpus": "C:", "query": "Q:"}, "query", "C:"),
        ("document", {"query": "Q:", "other": "O:"}, "other", "O:"),
        ("document", {"query": "Q:"}, None, None),
    ],
)
def test_a_text_has_the_first_prompt_of_its_kind_else_the_default(kind, prompts, default, chosen):
    model = SimpleNamespace(
        prompts=prompts,
        default_prompt_name=default,
        preprocess=lambda texts, prompt, task: (texts, prompt, task),
    )
    found = Reference._features(SimpleNamespace(module=model), ["a"], kind)
    assert found == (["a"], chosen, kind)
