"""Write the overlay of minilm-colbert in PyLate's layout too, for peers that read no other.

Run from the repository root: ``python resources/make_pylate_overlay.py``. The projection is that of
make_minilm_overlay.py. The markers are tokens that the vocabulary has and no text uses: PyLate
makes up embeddings for any other.
"""

from __future__ import annotations

import json
import shutil
import string
from pathlib import Path

from safetensors.numpy import load_file

OVERLAYS = Path(__file__).parent / "overlays"
SOURCE, OVERLAY = OVERLAYS / "minilm-colbert", OVERLAYS / "minilm-pylate"
MODULES = (
    ("", "sentence_transformers.models.Transformer"),
    ("1_Dense", "pylate.models.Dense.Dense"),
)
SETTINGS = {
    "__version__": {"sentence_transformers": "5.3.0", "transformers": "5.3.0"},
    "model_type": "ColBERT",
    "prompts": {"query": "", "document": ""},
    "default_prompt_name": None,
    "similarity_fn_name": "MaxSim",
    "query_prefix": "[unused0]",
    "document_prefix": "[unused1]",
    "query_length": 32,
    "document_length": 180,
    "attend_to_expansion_tokens": False,
    "skiplist_words": list(string.punctuation),
    "do_query_expansion": True,
}


def main() -> None:
    """Write the three files that differ, and copy the projection."""
    shutil.rmtree(OVERLAY, ignore_errors=True)
    dense = OVERLAY / "1_Dense"
    shutil.copytree(SOURCE / "1_Dense", dense)
    outputs, inputs = load_file(dense / "model.safetensors")["linear.weight"].shape
    activation = "torch.nn.modules.linear.Identity"
    sizes = {"in_features": inputs, "out_features": outputs, "bias": False}
    projection = {**sizes, "activation_function": activation, "use_residual": False}
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": kind}
        for index, (path, kind) in enumerate(MODULES)
    ]
    for file, content in (
        (dense / "config.json", projection),
        (OVERLAY / "modules.json", modules),
        (OVERLAY / "config_sentence_transformers.json", SETTINGS),
    ):
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
