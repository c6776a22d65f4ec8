"""Build the untrained demo models: small ColPali, ColQwen2 and ViT-GPT2 with their processors.

The classes, special tokens and file layout are those of the published checkpoints; only widths,
depths, page sizes and vocabularies are smaller.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

from demo_pages import EXHIBITS, make_caption, make_page, make_query
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    ColPaliConfig,
    ColPaliForRetrieval,
    ColPaliProcessor,
    ColQwen2Config,
    ColQwen2ForRetrieval,
    ColQwen2Processor,
    GemmaTokenizer,
    GenerationConfig,
    GPT2Config,
    GPT2Tokenizer,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    SiglipImageProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
)
from transformers.models.colpali.processing_colpali import EXTRA_TOKENS, IMAGE_TOKEN

EMBEDDING_DIM = 128  # as in the published models
WIDTH = 128
PATCH_SIZE = 14

COLPALI_PAGE_SIZE = 168
COLQWEN2_MAX_TOKENS = 72
COLQWEN2_TOKEN_PIXELS = (2 * PATCH_SIZE) ** 2  # two by two patches make one token
COLQWEN2_VISION_WIDTH = 96

VIT_GPT2_PAGE_SIZE = 144
VIT_GPT2_PATCH_SIZE = 16
VIT_GPT2_WIDTH = 96
CAPTION_BEAMS = 3
CAPTION_TOKENS = 40  # the longest caption has 29, and one at either end

TOKENIZER_SEED = 11
TOKENIZER_QUERIES = 2000
TOKENIZER_VOCABULARY = 1024
CAPTIONS_VOCABULARY = 320  # 256 bytes, and the few words of captions
PROMPTS = ("Describe the image.", "Question: ", "Query: ", "user\n")

GEMMA_CONTROL_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
QWEN_CONTROL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
GPT2_CONTROL_TOKEN = "<|endoftext|>"


@dataclass(frozen=True)
class CaptionProcessor:
    """An image processor and a tokenizer, in the files that ViT-GPT2 is published with."""

    image_processor: ViTImageProcessor
    tokenizer: GPT2Tokenizer

    def save_pretrained(self, folder: Path) -> None:
        """Save both."""
        self.image_processor.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: Path) -> CaptionProcessor:
        """Load both."""
        return cls(ViTImageProcessor.from_pretrained(folder), GPT2Tokenizer.from_pretrained(folder))


def tokenizer_texts() -> list[str]:
    """Texts that the tokenizers are trained on: queries about pages, and the prompts."""
    rng = random.Random(TOKENIZER_SEED)
    queries = [
        make_query(rng, rng.sample(EXHIBITS, rng.randint(1, 4))) for _ in range(TOKENIZER_QUERIES)
    ]
    return [*queries, *PROMPTS]


def caption_texts() -> list[str]:
    """Texts that the tokenizer of captions is trained on."""
    rng = random.Random(TOKENIZER_SEED)
    return [make_caption(make_page(rng)) for _ in range(TOKENIZER_QUERIES)]


def train_bpe(
    tokenizer: Tokenizer,
    alphabet: list[str],
    special_tokens: list[str],
    texts: list[str],
    vocabulary: int = TOKENIZER_VOCABULARY,
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Train byte-pair merges and return the vocabulary and the merges."""
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=alphabet,
        special_tokens=special_tokens,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def make_gemma_tokenizer() -> GemmaTokenizer:
    """Train a Gemma tokenizer whose last tokens are the location, segment and image tokens."""
    source = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    source.normalizer = normalizers.Replace(" ", "▁")
    # Gemma itself does not split at punctuation; here it keeps "table," from being one token.
    source.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Punctuation()]
    )
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    printable = ["\n", *map(chr, range(33, 127))]
    control_tokens = GEMMA_CONTROL_TOKENS + byte_tokens
    vocab, merges = train_bpe(source, printable, control_tokens, tokenizer_texts())
    vocab |= {token: len(vocab) + i for i, token in enumerate([*EXTRA_TOKENS, IMAGE_TOKEN])}
    tokenizer = GemmaTokenizer(
        vocab=vocab,
        merges=merges,
        add_bos_token=False,
        padding_side="left",
        extra_special_tokens={"image_token": IMAGE_TOKEN},
    )
    tokenizer.add_tokens(EXTRA_TOKENS)
    return tokenizer


def make_qwen2_tokenizer() -> Qwen2Tokenizer:
    """Train a Qwen2 tokenizer whose last tokens are the control and image tokens."""
    source = Tokenizer(models.BPE())
    source.normalizer = normalizers.NFC()
    source.pre_tokenizer = Qwen2Tokenizer()._tokenizer.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab, merges = train_bpe(source, alphabet, [], tokenizer_texts())
    vocab |= {token: len(vocab) + index for index, token in enumerate(QWEN_CONTROL_TOKENS)}
    return Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=QWEN_CONTROL_TOKENS,
        padding_side="left",
    )


def make_gpt2_tokenizer() -> GPT2Tokenizer:
    """Train a GPT-2 tokenizer, whose last token begins, ends and fills a text."""
    source = Tokenizer(models.BPE())
    source.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab, merges = train_bpe(source, alphabet, [], caption_texts(), CAPTIONS_VOCABULARY)
    vocab[GPT2_CONTROL_TOKEN] = len(vocab)
    return GPT2Tokenizer(vocab=vocab, merges=merges, pad_token=GPT2_CONTROL_TOKEN)


def make_colpali() -> tuple[PreTrainedModel, ProcessorMixin]:
    """Build ColPali: SigLIP vision layers, a projector and Gemma text layers."""
    tokenizer = make_gemma_tokenizer()
    vocab_size = -(-len(tokenizer) // 64) * 64  # rounded up, as PaliGemma's is
    pages = SiglipImageProcessor(
        size={"height": COLPALI_PAGE_SIZE, "width": COLPALI_PAGE_SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    pages.image_seq_length = (COLPALI_PAGE_SIZE // PATCH_SIZE) ** 2
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": COLPALI_PAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "vision_use_head": False,
        "num_image_tokens": (COLPALI_PAGE_SIZE // PATCH_SIZE) ** 2,  # as the published ones say
    }
    text = {
        "model_type": "gemma",
        "vocab_size": vocab_size,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 1024,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = ColPaliConfig(
        vlm_config={
            "model_type": "paligemma",
            "vision_config": vision,
            "text_config": text,
            "projection_dim": WIDTH,
            "hidden_size": WIDTH,
            "vocab_size": vocab_size,
            "image_token_index": tokenizer.image_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        },
        embedding_dim=EMBEDDING_DIM,
    )
    return ColPaliForRetrieval(config), ColPaliProcessor(pages, tokenizer)


def make_colqwen2() -> tuple[PreTrainedModel, ProcessorMixin]:
    """Build ColQwen2: Qwen2-VL vision layers with a patch merger, and Qwen2 text layers."""
    tokenizer = make_qwen2_tokenizer()
    pages = Qwen2VLImageProcessor(
        size={
            "shortest_edge": 4 * COLQWEN2_TOKEN_PIXELS,
            "longest_edge": COLQWEN2_MAX_TOKENS * COLQWEN2_TOKEN_PIXELS,
        }
    )
    vision = {
        "depth": 3,
        "embed_dim": COLQWEN2_VISION_WIDTH,
        "hidden_size": WIDTH,
        "num_heads": 3,
        "mlp_ratio": 2,
        "patch_size": PATCH_SIZE,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    text = {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "max_window_layers": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        # No pad_token_id, as in Qwen2-VL: it would make a zero vector of <|endoftext|>, and a
        # padding token that attends to nothing would then have no direction to normalise.
    }
    token_ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("image", "<|image_pad|>"),
            ("video", "<|video_pad|>"),
            ("vision_start", "<|vision_start|>"),
            ("vision_end", "<|vision_end|>"),
        )
    }
    config = ColQwen2Config(
        vlm_config={
            "model_type": "qwen2_vl",
            "vision_config": vision,
            "text_config": text,
            "tie_word_embeddings": True,
            **token_ids,
        },
        embedding_dim=EMBEDDING_DIM,
    )
    return ColQwen2ForRetrieval(config), ColQwen2Processor(pages, tokenizer)


def make_vit_gpt2() -> tuple[PreTrainedModel, CaptionProcessor]:
    """Build ViT-GPT2: ViT layers, and GPT-2 layers that attend to their output."""
    tokenizer = make_gpt2_tokenizer()
    side = VIT_GPT2_PAGE_SIZE
    pages = ViTImageProcessor(
        size={"height": side, "width": side},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    vision = ViTConfig(
        hidden_size=VIT_GPT2_WIDTH,
        intermediate_size=2 * VIT_GPT2_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=side,
        patch_size=VIT_GPT2_PATCH_SIZE,
    )
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    text = GPT2Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        n_positions=64,
        n_embd=VIT_GPT2_WIDTH,
        n_inner=2 * VIT_GPT2_WIDTH,
        n_layer=2,
        n_head=3,
        is_decoder=True,
        add_cross_attention=True,
        **ids,
    )
    ids["decoder_start_token_id"] = tokenizer.bos_token_id
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text, **ids)
    model = VisionEncoderDecoderModel(config)
    model.generation_config = GenerationConfig(
        num_beams=CAPTION_BEAMS, max_length=CAPTION_TOKENS, **ids
    )
    return model, CaptionProcessor(pages, tokenizer)


FAMILIES = {"colpali": make_colpali, "colqwen2": make_colqwen2, "vit-gpt2": make_vit_gpt2}
