"""ColQwen3 and BiQwen3 against colpali-engine."""

import colpali_engine.models as engine
import torch
import transformers
from transformers.models.qwen3_vl import Qwen3VLConfig

from tests import page_models
from tests.page_checks import check_end_to_end

TEXT = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "head_dim": 16},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.1},
    "max_position_embeddings": 1024,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [4, 2, 2]},
}
VISION = {
    **{"depth": 4, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "patch_size": 16},
    **{"out_hidden_size": 64, "num_position_embeddings": 64, "initializer_range": 0.1},
    "deepstack_visual_indexes": [0, 2],
}


def save(stem, folder, **vision):
    tokenizer = transformers.AutoTokenizer.from_pretrained(page_models.demo("colqwen2"))
    token = tokenizer.convert_tokens_to_ids
    config = Qwen3VLConfig(
        text_config={**TEXT, "vocab_size": len(tokenizer)},
        vision_config={**VISION, **vision},
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
    )
    torch.manual_seed(0)
    model = getattr(engine, stem)(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    model.save_pretrained(folder)
    images = transformers.Qwen2VLImageProcessor(
        patch_size=16, size={"shortest_edge": 4096, "longest_edge": 65536}
    )
    videos = transformers.Qwen3VLVideoProcessor()
    getattr(engine, f"{stem}Processor")(images, tokenizer, videos).save_pretrained(folder)
    return folder


def test_every_query_and_page_equals_the_library(tmp_path):
    check_end_to_end("colqwen3", save("ColQwen3", tmp_path / "c"), tmp_path / "o")
