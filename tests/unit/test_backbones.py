"""Backbones of ColBERT checkpoints: each of docs/models.md is equal to its library, or refused."""

import json
import shutil

import numpy as np
import pytest
from sentence_transformers import MultiVectorEncoder

from colport import Encoder
from colport.base.errors import CheckpointError, ColPortError, UnsupportedError
from colport.export.folder import export
from colport.families import registry
from colport.pipeline.forecast import PUBLISHED
from tests.conftest import ROOT
from tests.fixtures.backbones import BACKBONES, sentences
from tests.text_models import edit, make_checkpoint
from tests.unit.test_colbert_layouts import SAVED

ROWS = PUBLISHED["backbones"]
REFUSED = [kind for kind, row in ROWS.items() if "refused" in row]
ELSEWHERE = {kind["kind"] for kind in SAVED.values()}  # exported there, with more settings
HERE = [kind for kind in ROWS if kind not in (*REFUSED, *ELSEWHERE)]
TWO_KINDS = ["gemma3_text", "embeddinggemma", "lfm2"]  # of layers
WORDS = " ".join(sentences()).split()
# Shorter and longer than windows (6 and 8 tokens), blocks of positions (8) and the trace (20).
TEXTS = ["", "a", *(" ".join(WORDS[n : 2 * n]) for n in (3, 8, 21, 55))]
UNATTENDED = {"strategy": "fixed", "attend": False, "length": 24}
LIMITS = {"document_length": 160, "query_expansion": UNATTENDED}
OWN_CODE = {"AutoModel": "modeling_own.OwnModel"}


def difference(found, expected):
    assert [rows.shape for rows in found] == [rows.shape for rows in expected]
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(one - other).max()) for one, other in pairs)


def assert_equal(exported, folder, side):
    """Alone and in one batch, to the library alone and in one batch."""
    encoder = Encoder(exported)
    assert encoder.manifest.processing["padding_side"] == side
    live = MultiVectorEncoder(str(folder), device="cpu", model_kwargs={"dtype": "float32"})
    for library, own in (
        (live.encode_document, encoder.encode_documents),
        (live.encode_query, encoder.encode_queries),
    ):
        found = [own(TEXTS, size) for size in (1, len(TEXTS))]
        for size in (1, len(TEXTS)):
            expected = library(TEXTS, batch_size=size, convert_to_numpy=True)
            assert max(difference(one, expected) for one in found) < 2e-5


@pytest.mark.parametrize("kind", HERE)
def test_a_backbone_is_equal_to_its_library(kind, tmp_path):
    folder, exported = tmp_path / "checkpoint", tmp_path / "exported"
    layers = {} if kind in TWO_KINDS else {"num_hidden_layers": 1}
    make_checkpoint(folder, kind, config=layers, **LIMITS)
    if kind == "eurobert":  # its code is in transformers now; its checkpoints name it still
        edit(folder / "config.json", auto_map=OWN_CODE)
    export(folder, exported)
    assert_equal(exported, folder, "right")
    edit(folder / "tokenizer_config.json", padding_side="left")
    if ROWS[kind]["padding"] == ["right"]:
        with pytest.raises(UnsupportedError, match="padding on the left shifts its learned"):
            registry.get("colbert").processing(folder)
        return
    assert ROWS[kind]["padding"] == ["right", "left"]
    settings = registry.get("colbert").processing(folder).settings
    edit(exported / "colport.json", processing=settings)  # the graph is the same
    assert_equal(exported, folder, "left")


@pytest.mark.parametrize("kind", REFUSED)
def test_a_backbone_is_refused_by_name(kind, tmp_path):
    folder = make_checkpoint(tmp_path / "checkpoint", kind)
    with pytest.raises(ColPortError) as caught:
        export(folder, tmp_path / "exported")
    assert ROWS[kind]["refused"] in str(caught.value)
    assert not (tmp_path / "exported").exists()


def test_every_row_is_tried_and_its_layouts_have_a_fixture():
    assert set(ROWS) <= set(BACKBONES)
    for kind, row in ROWS.items():
        assert set(row) <= {"name", "padding", "layouts", "refused"}
        for layout in row.get("layouts", ()):
            config = ROOT / f"tests/fixtures/{layout}-{kind}/config.json"
            assert json.loads(config.read_text())["model_type"] == kind
    for kind in ELSEWHERE:
        saved = [settings for settings in SAVED.values() if settings["kind"] == kind]
        sides = {settings.get("tokenizer", {}).get("padding_side", "right") for settings in saved}
        assert set(ROWS[kind]["padding"]) == sides


@pytest.fixture(scope="module")
def lfm2(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("lfm2") / "checkpoint", "lfm2")


OTHERWISE = {
    "code": ({"auto_map": OWN_CODE}, r"auto_map names code of the checkpoint \(modeling_own"),
    "class": (
        {"architectures": ["Lfm2BidirectionalModel"]},
        "architectures names Lfm2BidirectionalModel, which transformers does not have",
    ),
}


@pytest.mark.parametrize("case", OTHERWISE)
def test_a_class_of_transformers_does_not_stand_in_for_another(case, lfm2, tmp_path):
    """LFM2.5-ColBERT looks both ways: LFM2's class would read its weights, and look back alone."""
    changes, message = OTHERWISE[case]
    folder = shutil.copytree(lfm2, tmp_path / "checkpoint")
    edit(folder / "config.json", **changes)
    family = registry.get("colbert")
    for use in (family.skeleton, family.reference):
        with pytest.raises((CheckpointError, UnsupportedError), match=f"config.json: {message}"):
            use(folder, "fp32" if use == family.skeleton else "cpu")


@pytest.mark.parametrize(
    ("kind", "config"), [("bert", {}), ("distilbert", {}), ("lfm2", {"conv_bias": True})]
)
def test_padding_on_the_left_that_a_text_would_feel(kind, config, tmp_path):
    left = {"padding_side": "left"}
    folder = make_checkpoint(tmp_path / "checkpoint", kind, config=config, tokenizer=left)
    message = "padding on the left shifts its learned positions or enters convolutions, so that"
    with pytest.raises(UnsupportedError, match=message):
        registry.get("colbert").processing(folder)
