"""Train a small ColPali, ColQwen2 or ViT-GPT2 on drawn pages and save it as a checkpoint folder.

Run from the repository root:

    python resources/train_demo.py colpali
    python resources/train_demo.py colqwen2
    python resources/train_demo.py vit-gpt2

The saved model is then loaded again and scored on the demo page datasets.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from demo_families import FAMILIES, CaptionProcessor
from demo_pages import EXHIBITS, Page, make_caption, make_page, make_query
from demo_scoring import maxsim
from score_demo import embed, score_checkpoint
from torch import Tensor
from tqdm import trange
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin

ROOT = Path(__file__).parent
MODEL_SEED, PAGES_SEED = 7, 30_000  # the page seed differs from those in make_datasets.py

# ColPali sees both ways and learns faster; with more steps its scores reach 1.0, and a score of
# 1.0 would hide the first losses of a conversion.
STEPS = {"colpali": 380, "colqwen2": 600, "vit-gpt2": 1800}
PAGES_PER_STEP = 32
WARMUP_STEPS = 40
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.01
MAX_GRADIENT_NORM = 1.0
PATCH_LOSS_SCALE = 25.0
NOT_LABELLED = -100


def label_patches(page: Page, rows: int, columns: int) -> list[int]:
    """Label each patch of a page with the exhibit that its centre lies in."""
    labels = [NOT_LABELLED] * (rows * columns)
    for exhibit, (left, top, right, bottom) in zip(page.exhibits, page.boxes, strict=True):
        for row in range(rows):
            for column in range(columns):
                x, y = (column + 0.5) / columns, (row + 0.5) / rows
                if left <= x <= right and top <= y <= bottom:
                    labels[row * columns + column] = EXHIBITS.index(exhibit)
    return labels


def patch_grids(processor: ProcessorMixin, inputs: BatchFeature) -> list[tuple[int, int]]:
    """Rows and columns of image tokens for each page."""
    if "image_grid_thw" in inputs:
        merge = processor.image_processor.merge_size
        return [(rows // merge, columns // merge) for _, rows, columns in inputs["image_grid_thw"]]
    side = math.isqrt(processor.image_seq_length)
    return [(side, side)] * len(inputs["input_ids"])


def embed_exhibit_names(model: PreTrainedModel, processor: ProcessorMixin) -> Tensor:
    """Embed the name of each exhibit as the mean over the tokens of its words."""
    inputs = processor.process_queries([exhibit.name for exhibit in EXHIBITS])
    prompt_ids = processor.process_queries([""])["input_ids"]
    is_name = inputs["attention_mask"].bool() & ~torch.isin(inputs["input_ids"], prompt_ids)
    embeddings = embed(model, inputs) * is_name.unsqueeze(-1)
    return F.normalize(embeddings.sum(dim=1), dim=-1)


def compute_loss(
    model: PreTrainedModel, processor: ProcessorMixin, pages: list[Page], rng: random.Random
) -> Tensor:
    """Add up the in-batch MaxSim loss and the loss of telling what each patch shows."""
    queries = [make_query(rng, rng.sample(page.exhibits, rng.choice((3, 4)))) for page in pages]
    page_inputs = processor.process_images([page.image for page in pages])
    page_embeddings = embed(model, page_inputs)
    query_embeddings = embed(model, processor.process_queries(queries))
    scores = maxsim(query_embeddings, page_embeddings, page_inputs["attention_mask"])
    retrieval_loss = F.cross_entropy(scores, torch.arange(len(pages)))

    is_patch = page_inputs["input_ids"] == processor.image_token_id
    grids = patch_grids(processor, page_inputs)
    labels = [
        label
        for page, grid in zip(pages, grids, strict=True)
        for label in label_patches(page, *grid)
    ]
    names = embed_exhibit_names(model, processor)
    logits = PATCH_LOSS_SCALE * page_embeddings[is_patch] @ names.T
    patch_loss = F.cross_entropy(logits, torch.tensor(labels), ignore_index=NOT_LABELLED)
    return retrieval_loss + patch_loss


def compute_caption_loss(
    model: PreTrainedModel, processor: CaptionProcessor, pages: list[Page], rng: random.Random
) -> Tensor:
    """Add up the loss of the next token and the loss of telling what each patch shows."""
    tokenizer = processor.tokenizer
    images = processor.image_processor([page.image for page in pages], return_tensors="pt")
    captions = [make_caption(page) + tokenizer.eos_token for page in pages]
    inputs = tokenizer(captions, padding=True, return_tensors="pt")
    features = model.encoder(**images).last_hidden_state
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, NOT_LABELLED)
    caption_loss = model(encoder_outputs=(features,), labels=labels).loss

    side = math.isqrt(features.shape[1] - 1)  # the first is not of a patch
    patches = torch.tensor([label_patches(page, side, side) for page in pages])
    words = model.decoder.get_input_embeddings()
    ids = tokenizer([f" {exhibit.name}" for exhibit in EXHIBITS])["input_ids"]
    names = torch.stack([words(torch.tensor(row)).mean(dim=0) for row in ids])
    directions = F.normalize(features[:, 1:], dim=-1) @ F.normalize(names, dim=-1).T
    logits = PATCH_LOSS_SCALE * directions.flatten(0, 1)
    patch_loss = F.cross_entropy(logits, patches.flatten(), ignore_index=NOT_LABELLED)
    return caption_loss + patch_loss


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then cosine decay to zero."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / (steps - WARMUP_STEPS)))


def train(model: PreTrainedModel, processor: ProcessorMixin | CaptionProcessor, steps: int) -> None:
    """Train with the forward pass that inference uses, on new pages at each step."""
    compute = compute_caption_loss if isinstance(processor, CaptionProcessor) else compute_loss
    rng = random.Random(PAGES_SEED)
    model.eval()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps)
    )
    with trange(steps, desc="train") as bar:
        for _ in bar:
            pages = [make_page(rng) for _ in range(PAGES_PER_STEP)]
            loss = compute(model, processor, pages, rng)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}")


def main() -> None:
    """Train, save in bfloat16, load again and score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("family", choices=sorted(FAMILIES))
    parser.add_argument("--steps", type=int, help="default: the steps of the family")
    arguments = parser.parse_args()
    steps = arguments.steps or STEPS[arguments.family]
    folder = ROOT / "checkpoints" / f"{arguments.family}-demo"

    torch.manual_seed(MODEL_SEED)
    model, processor = FAMILIES[arguments.family]()
    started = time.perf_counter()
    train(model, processor, steps)
    seconds = time.perf_counter() - started
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)

    print(f"{steps} steps in {seconds:.0f} s")
    for measure, score in score_checkpoint(folder).items():
        print(f"{measure}: {score:.4f}")


if __name__ == "__main__":
    main()
