"""``colport.Captioner``: the tokens of the library's ``generate``, without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from colport import Captioner, Encoder
from colport.base.errors import ArtifactError, ConfigError, InputError
from colport.cli import app, caption
from colport.families import registry

PROMPTS = {"donut": "<s_task>", "blip": "a red", "git": "what does", "florence2": "<CAPTION>"}
UNEQUAL = {
    "donut": ["<s_task>", None, "<s_task> what does", "a"],
    "blip": ["a", "what does the image", None, "a red"],
    "git": ["a", "what does the image", None, "a red"],
    "florence2": ["<CAPTION>", "what does the image", "a", None],
}


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(7)
    shades = rng.integers(0, 256, (count, 1, 1, 3)) + rng.integers(-40, 40, (count, 40, 60, 3))
    return [Image.fromarray(pixels.clip(0, 255).astype(np.uint8)) for pixels in shades]


def listed(rows):
    return [row.tolist() for row in rows]


@pytest.mark.parametrize("name", ["vit-gpt2", *PROMPTS])
def test_tokens_are_those_of_the_library(name, captioner_as):
    checkpoint, folder = captioner_as(name)
    captioner, images = Captioner(folder, threads=1), pictures(4)
    library = registry.get(captioner.manifest.family).reference(checkpoint, "cpu")
    known = set()
    for prompt in {None, PROMPTS.get(name)}:
        for given in ({}, {"num_beams": 3}, {"num_beams": 4, "max_new_tokens": 6}):
            expected = listed(library.generate_tokens(images, prompt, **given))
            known |= set(map(tuple, expected))
            for size in (1, 4):
                found = captioner.generate_tokens(images, prompt, batch_size=size, **given)
                assert listed(found) == expected
        tokens = np.array([[*row, *range(5, 30)][:9] for row in expected])
        found = captioner.logits(images, tokens, prompt)
        np.testing.assert_allclose(found, library.logits(images, tokens, prompt), atol=1e-4)
    assert len(known) > 3  # texts depend on pictures


@pytest.mark.parametrize("name", UNEQUAL)
@pytest.mark.parametrize("given", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_prompts_of_a_batch_may_be_of_unequal_length(name, given, captioner_as):
    checkpoint, folder = captioner_as(name)
    captioner, images, prompts = Captioner(folder, threads=1), pictures(4), UNEQUAL[name]
    library = registry.get(captioner.manifest.family).reference(checkpoint, "cpu")
    each = zip(images, prompts, strict=True)
    expected = [row for one, text in each for row in library.generate_tokens([one], text, **given)]
    assert listed(captioner.generate_tokens(images, prompts, **given)) == listed(expected)


def test_threads_get_what_one_gets(captioner_as):
    captioner, images = Captioner(captioner_as("blip")[1], threads=1), pictures(4)
    calls = [("a red", 1), ("what does the image", 3), (None, 2)]
    expected = {call: captioner.generate(images, call[0], num_beams=call[1]) for call in calls}
    start = threading.Barrier(6)

    def work(number):
        start.wait()
        for turn in range(4):
            prompt, beams = call = calls[(number + turn) % len(calls)]
            assert captioner.generate(images, prompt, num_beams=beams) == expected[call]

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))


def test_a_text_is_streamed_as_it_grows(captioner_as):
    captioner, images, seen = Captioner(captioner_as("blip")[1]), pictures(3), {}
    found = captioner.generate(
        images,
        "a red",
        batch_size=2,
        stream=lambda place, text: seen.setdefault(place, []).append(text),
    )
    assert [seen[place][-1] for place in range(3)] == found
    tokens = captioner.generate_tokens(images, "a red")
    begun = len(captioner.generate_tokens(images[:1], "a red", max_new_tokens=1)[0]) - 1
    assert [len(seen[place]) for place in range(3)] == [len(row) - begun for row in tokens]
    with pytest.raises(ValueError, match=r"^stream: .* num_beams is 2"):
        captioner.generate(images, num_beams=2, stream=print)


def test_a_command_prints_a_line_a_picture(captioner_as, tmp_path, capsys):
    folder = captioner_as("blip")[1]
    for number, image in enumerate(pictures(2)):
        image.save(tmp_path / f"{number}.png")
    caption.caption(str(folder), [tmp_path], prompt="a red", max_new_tokens=4, quiet=True)
    texts = Captioner(folder).generate(pictures(2), "a red", max_new_tokens=4)
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines == [["0.png", texts[0]], ["1.png", texts[1]]]


def test_it_runs_without_torch(captioner_as):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'onnx')));"
        "from PIL import Image; from colport import Captioner;"
        "print(Captioner(sys.argv[1]).generate([Image.new('RGB', (40, 60), 'red')])[0])"
    )
    run = [sys.executable, "-c", code, str(captioner_as("vit-gpt2")[1])]
    found = subprocess.run(run, capture_output=True, text=True, check=False)
    image = Image.new("RGB", (40, 60), "red")
    assert (found.stdout.strip(), found.stderr) == (
        Captioner(captioner_as("vit-gpt2")[1]).generate([image])[0].strip(),
        "",
    )


# What is refused.


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"prompt": "a red"}, InputError, r"^prompt\[0\]: is given to a model that takes none\.$"),
        ({"prompt": ["a"]}, ValueError, "^prompt: found 1 texts; .* each of 2 images"),
        ({"prompt": 5}, TypeError, "^prompt: found int; allowed is a text, a list"),
        ({"prompt": [None, 5]}, TypeError, r"^prompt\[1\]: found int; allowed is a text or None"),
        ({"num_beams": 0}, ValueError, "^num_beams: found 0; allowed is a whole number from 1"),
        ({"max_new_tokens": 0}, ValueError, "^max_new_tokens: found 0"),
        ({"max_new_tokens": 99}, InputError, "^max_new_tokens: found 99; .* for 48 more"),
        ({"batch_size": 0}, ValueError, "^batch_size: found 0"),
        ({"stream": 3}, TypeError, "^stream: found int"),
        ({"images": pictures(1)[0]}, TypeError, "^images: found Image"),
        ({"images": [pictures(1)[0], "a.png"]}, TypeError, r"^images\[1\]: found str; allowed is"),
    ],
)
def test_wrong_arguments_are_named(given, error, message, captioner_as):
    with pytest.raises(error, match=message):
        Captioner(captioner_as("vit-gpt2")[1]).generate(**{"images": pictures(2), **given})


def test_a_picture_that_does_not_decode_is_named(captioner_as, tmp_path):
    file = tmp_path / "half.png"
    pictures(1)[0].save(file)
    file.write_bytes(file.read_bytes()[:2000])
    captioner = Captioner(captioner_as("vit-gpt2")[1])
    with pytest.raises(InputError, match=r"^images\[2\]: "):
        captioner.generate([*pictures(2), Image.open(file)], batch_size=2)


def test_a_retriever_and_a_captioner_are_not_each_other(captioner_as, exported):
    with pytest.raises(ArtifactError, match=r"is a captioner, which colport\.Captioner runs"):
        Encoder(captioner_as("vit-gpt2")[1])
    with pytest.raises(ArtifactError, match=r"is a retriever, which colport\.Encoder runs"):
        Captioner(exported["colpali"])


def test_settings_of_fixed_shapes_are_refused(captioner_as):
    settings = {"type": "cpu", "fixed_shapes": {"batch": [8]}}
    with pytest.raises(ConfigError, match=r"^provider: fixed_shapes: a captioner's cache grows"):
        Captioner(captioner_as("vit-gpt2")[1], settings)


def test_outputs_bound_by_us_give_the_same(captioner_as):
    folder = captioner_as("git")[1]
    bound = Captioner(folder, {"type": "cpu", "io_binding": True})
    assert bound.generate(pictures(2)) == Captioner(folder).generate(pictures(2))


def test_a_folder_without_a_decoder_is_refused(captioner_as, tmp_path):
    folder = shutil.copytree(captioner_as("vit-gpt2")[1], tmp_path / "less")
    manifest = json.loads((folder / "colport.json").read_text())
    del manifest["graphs"]["decoder"]
    (folder / "colport.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"colport\.json: has no decoder graph\.$"):
        Captioner(folder)


def test_commands_of_retrievers_refuse_a_captioner(captioner_as, tmp_path):
    checkpoint, folder = captioner_as("vit-gpt2")
    (tmp_path / "queries.txt").write_text("a\n")
    given = ["--queries", str(tmp_path / "queries.txt"), "--documents", str(tmp_path)]
    for command, told in (
        (["parity", str(folder), str(checkpoint), *given], "has no queries and documents"),
        (["quantize", str(folder), "-o", str(tmp_path / "q"), *given], "queries"),
        (["push", str(folder), "me/it", "--dry-run"], "add --layout"),
        (
            ["encode", str(folder), str(tmp_path), "-o", str(tmp_path / "v.npz")],
            "colport.Captioner",
        ),
    ):
        done = CliRunner().invoke(app, command)
        assert told in str(done.exception or done.output), command
    shown = CliRunner().invoke(app, ["inspect", str(folder)])
    assert "vision-encoder-decoder, texts about pictures" in shown.output
