"""``python -m benchmarks.captions``: captioners of published sizes beside PyTorch's ``generate``.

Weights are random, so that every caption has as many tokens as are asked for. Each contender has a
process of its own and they take turns, as in every latency run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import typer

from benchmarks.command import SCRATCH, Output, Scratch, Threads, publish, start, whole_numbers
from benchmarks.export import write_variant
from benchmarks.processes import run_alone
from benchmarks.random_checkpoints import random_page
from benchmarks.tables import Table, measured_on, millions
from colport.base.files import scratch_folder
from colport.measure.entrants import Contest
from colport.measure.latency import compare

TABLE = Table(
    {
        **dict.fromkeys(("model", "variant", "kind"), ""),
        "parameters": millions,
        "batch_size": "d",
        **dict.fromkeys(("p50_ms", "token_ms", "tokens_per_second"), ".1f"),
        "speedup_vs_pytorch": ".2f",
        "rounds": "",
        "peak_rss_mb": ".0f",
    }
)
"""Medians of a whole call; times as fast as PyTorch, with the lowest and highest round."""

_VIT = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
_VIT |= {"intermediate_size": 3072, "patch_size": 16}
_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def _blip() -> tuple[Any, Any, int]:
    """Salesforce/blip-image-captioning-base, by the defaults of its class in transformers."""
    import transformers

    text = {"hidden_size": 768, "encoder_hidden_size": 768, "num_hidden_layers": 12}
    text |= {"num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 30524}
    text |= {"is_decoder": True, "sep_token_id": 2, **_IDS}
    config = transformers.BlipConfig(text_config=text, vision_config={**_VIT, "image_size": 384})
    size = {"height": 384, "width": 384}
    images = transformers.BlipImageProcessor(size=size)
    return transformers.BlipForConditionalGeneration(config), images, text["vocab_size"]


def _vit_gpt2() -> tuple[Any, Any, int]:
    """nlpconnect/vit-gpt2-image-captioning: ViT-base and GPT-2 with cross-attention."""
    import transformers

    encoder = transformers.ViTConfig(**_VIT, image_size=224)
    decoder = transformers.GPT2Config(is_decoder=True, add_cross_attention=True, **_IDS)
    pair = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model = transformers.VisionEncoderDecoderModel(pair)
    return model, transformers.ViTImageProcessor(), decoder.vocab_size


MODELS: Mapping[str, Callable[[], tuple[Any, Any, int]]] = {
    "blip-base": _blip,
    "vit-gpt2": _vit_gpt2,
}


def write(name: str, output: str) -> int:
    """Write a random checkpoint of :data:`MODELS` and return its number of parameters."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models

    torch.manual_seed(0)
    model, images, words = MODELS[name]()
    model.generation_config.update(decoder_start_token_id=1, max_length=64, **_IDS)
    model.save_pretrained(output)
    images.save_pretrained(output)
    names = [*_SPECIAL, *(f"word{number}" for number in range(words - len(_SPECIAL)))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(names)}, "<unk>"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    named |= {"cls_token": "<s>", "sep_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(output)
    return sum(weight.numel() for weight in model.parameters())


def run(
    names: Sequence[str],
    variants: Sequence[str],
    settings: Mapping[str, Any],
    threads: int,
    scratch: Path,
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Write random checkpoints, export them, and time them beside PyTorch.

    Args:
        names: Of :data:`MODELS`.
        variants: ``fp32``, ``int8`` or ``int4``.
        settings: Of :func:`colport.measure.latency.compare`.
        threads: Of each contender.
        scratch: Folder for what is written.
        report: Called with each step, and with each row as it is ready.

    Returns:
        ``rows`` with the columns of :data:`TABLE`, and the ``environment``.
    """
    rows: list[dict[str, Any]] = []
    pictures = [random_page(number) for number in range(max(settings["batch_sizes"]))]
    for name in names:
        with scratch_folder(scratch / name) as folder:
            checkpoint, exported = folder / "checkpoint", folder / "fp32"
            parameters = run_alone("benchmarks.captions:write", name, str(checkpoint))
            run_alone("benchmarks.export:write_variant", str(checkpoint), str(exported), "fp32")
            for variant in set(variants) - {"fp32"}:
                write_variant(str(exported), str(folder / variant), variant)
            family = {"blip-base": "blip"}.get(name, "vision-encoder-decoder")
            contest = Contest(
                name,
                "cpu",
                {"folder": str(checkpoint), "family": family},
                {variant: str(folder / variant) for variant in variants},
                lambda: SimpleNamespace(queries=[], documents=pictures),
                folder,
                {"type": "cpu"},
            )
            record = compare(contest, settings, threads, report)
        for row in record["rows"]:
            ends = row["speedup_low"], row["speedup_high"]
            spread = row["reason"] if None in ends else "{:.2f} to {:.2f}".format(*ends)
            rows.append({**row, "parameters": parameters, "rounds": spread})
            report(TABLE.line(rows[-1]))
    return {"rows": rows, "environment": record["environment"]}


def markdown(record: Mapping[str, Any]) -> str:
    """The table, with the machine it was measured on."""
    on = measured_on(record["environment"], "onnxruntime", "torch", "transformers")
    return "\n".join([on, "", *TABLE.markdown(record["rows"]), ""])


def main(
    models: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(MODELS),
    variants: Annotated[str, typer.Option(help="Comma-separated.")] = "fp32,int8",
    batch_sizes: Annotated[str, typer.Option(help="Pictures a call.")] = "1,8",
    tokens: Annotated[int, typer.Option(help="Tokens of each caption.")] = 16,
    rounds: Annotated[int, typer.Option(help="How often contenders take turns.")] = 6,
    threads: Threads = 2,
    scratch: Scratch = SCRATCH,
    output: Output = None,
) -> None:
    """Time captioners of published sizes, of random weights, beside PyTorch.

    \b
    Example: python -m benchmarks.captions --models blip-base --variants fp32 --output captions.md
    """
    sizes = whole_numbers("--batch-sizes", batch_sizes)
    settings = {"batch_sizes": sizes, "caption_tokens": tokens, "rounds": rounds}
    given = models.split(","), variants.split(","), settings, threads, scratch, typer.echo
    publish(markdown(run(*given)), output)


if __name__ == "__main__":
    start(main)
