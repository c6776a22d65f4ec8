"""Score a page checkpoint on the demo page datasets with PyTorch in single precision.

Run from the repository root:

    python resources/score_demo.py resources/checkpoints/colpali-demo
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
from demo_families import CaptionProcessor
from demo_scoring import CUTOFF, load_beir, load_rows, maxsim, ndcg
from PIL.Image import Image, open
from torch import Tensor
from tqdm import trange
from transformers import (
    AutoConfig,
    BatchFeature,
    ColPaliForRetrieval,
    ColPaliProcessor,
    ColQwen2ForRetrieval,
    ColQwen2Processor,
    PreTrainedModel,
    ProcessorMixin,
    VisionEncoderDecoderModel,
)

DATASETS = Path(__file__).parent / "datasets"
BATCH_SIZE = 16
CLASSES = {
    "colpali": (ColPaliForRetrieval, ColPaliProcessor),
    "colqwen2": (ColQwen2ForRetrieval, ColQwen2Processor),
    "vision-encoder-decoder": (VisionEncoderDecoderModel, CaptionProcessor),
}


def embed(model: PreTrainedModel, inputs: BatchFeature) -> Tensor:
    """Compute one embedding per token; padding tokens get zeros."""
    # ColPali's processor returns labels for a generator; retrieval has no use for them.
    return model(**{name: value for name, value in inputs.items() if name != "labels"}).embeddings


@torch.inference_mode()
def score_pages(
    model: PreTrainedModel, processor: ProcessorMixin, queries: list[str], images: list[Image]
) -> Tensor:
    """Score all queries against all pages, a batch of pages at a time."""
    query_embeddings = embed(model, processor.process_queries(queries))
    scores = []
    for start in trange(0, len(images), BATCH_SIZE, desc="score"):
        inputs = processor.process_images(images[start : start + BATCH_SIZE])
        scores.append(maxsim(query_embeddings, embed(model, inputs), inputs["attention_mask"]))
    return torch.cat(scores, dim=1)


def score_qa(model: PreTrainedModel, processor: ProcessorMixin) -> float:
    """NDCG on the demo pages in QA form."""
    rows = load_rows(DATASETS / "demo-pages-qa")
    pages = {row["image_filename"]: row["image"] for row in rows}
    asked = [row for row in rows if row["query"] is not None]
    queries = [row["query"] for row in asked]
    scores = score_pages(model, processor, queries, list(pages.values()))
    return ndcg(scores, [[int(name == row["image_filename"]) for name in pages] for row in asked])


def score_beir(model: PreTrainedModel, processor: ProcessorMixin) -> float:
    """NDCG on the demo pages in BEIR form."""
    corpus, queries, relevance = load_beir(DATASETS / "demo-pages-beir")
    texts, images = [row["query"] for row in queries], [row["image"] for row in corpus]
    return ndcg(score_pages(model, processor, texts, images), relevance)


@torch.inference_mode()
def score_captions(model: PreTrainedModel, processor: CaptionProcessor, beams: int | None) -> float:
    """Share of the demo captions that are written word for word."""
    folder = DATASETS / "demo-captions"
    with (folder / "captions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = []
    for start in trange(0, len(rows), BATCH_SIZE, desc="caption"):
        images = [
            open(folder / "pictures" / row["picture"]) for row in rows[start : start + BATCH_SIZE]
        ]
        inputs = processor.image_processor(images, return_tensors="pt")
        tokens = model.generate(**inputs, **({"num_beams": beams} if beams else {}))
        found += processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return sum(a == row["caption"] for a, row in zip(found, rows, strict=True)) / len(rows)


def score_checkpoint(folder: Path) -> dict[str, float]:
    """Load a checkpoint in single precision and score it by each measure on each dataset."""
    model_class, processor_class = CLASSES[AutoConfig.from_pretrained(folder).model_type]
    model = model_class.from_pretrained(folder, dtype=torch.float32).eval()
    processor = processor_class.from_pretrained(folder)
    if isinstance(processor, CaptionProcessor):
        return {
            "exact captions, greedy": score_captions(model, processor, beams=1),
            "exact captions, own beams": score_captions(model, processor, beams=None),
        }
    return {
        f"NDCG@{CUTOFF} on demo-pages-qa": score_qa(model, processor),
        f"NDCG@{CUTOFF} on demo-pages-beir": score_beir(model, processor),
    }


def main() -> None:
    """Print the score of a checkpoint on each dataset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    for measure, score in score_checkpoint(parser.parse_args().checkpoint).items():
        print(f"{measure}: {score:.4f}")


if __name__ == "__main__":
    main()
