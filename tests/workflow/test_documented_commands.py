"""The commands of README.md and of the other pages, run as they are typed.

A block of ``sh`` is read command by command. Each one runs in a folder that has what the pages take
for granted (:func:`workspace`), unless a pattern of ``NOT_RUN`` gives the reason why it does not,
or one of ``DRY`` says that it is planned only. A block of ``text`` or ``console`` right behind one
of ``sh`` is the output of its last command: equal line by line, with numbers blanked; a line ``…``
stands for any lines.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests import page_models
from tests.conftest import ROOT
from tests.unit.compare.runs import Run
from tests.workflow.conftest import TINY

PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "config/README.md",
    *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").glob("*.md"))),
]
OWN_TEST = {
    "docs/extending.md": "tests/workflow/test_extending.py runs all of it",
    "docs/serving.md": "tests/unit/test_serving_docs.py runs its commands",
}
"""Pages whose commands another test runs."""

NOT_RUN = {
    "makes an environment from the package index": [
        r"make (report|test|setup)\b.*",
        r"(python3|python) -m venv .*",
        r"(\S+/python -m )?pip install .*",
        r"source \S+/bin/activate",
    ],
    "needs this repository's address": [r"git clone .*"],
    "needs the Hub": [
        r"colport export \w+/\S+@\w+ .*",
        r"colport push .*",
        r"colport mteb .*",
    ],
    "needs a whole run of the demo, and Chromium": [r"python -m tests\.pictures .*"],
    "needs a GPU": [r"\S+/python -m benchmarks\.providers --providers cuda.*"],
    "other tests run it": [
        r"colport publish .*",  # tests/unit/test_transformers_js.py
        r"python -m pip wheel .*",  # tests/unit/test_install.py
        r"pytest .*",
        r"ruff format .*",  # tests/check.py
    ],
}
"""Reason to the patterns of whole commands that do not run here."""

DRY = [r"snakemake --cores all( --configfile .*)?", r"snakemake --workflow-profile .*"]
"""Patterns of commands that take minutes or a cluster, and run with ``--dry-run`` here."""

FAMILIES = {"minilm-colbert": "colbert", "colpali-demo": "colpali", "colqwen2-demo": "colqwen2"}
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Command(NamedTuple):
    """A command of a page, and the output that stands behind its block."""

    text: str
    output: str | None


def blocks(page: str) -> list[tuple[str, str, bool]]:
    """Language and content of each block, and whether it stands right behind another one."""
    found, end = [], -1
    for block in BLOCK.finditer(page):
        found.append((block[1], block[2], end >= 0 and not page[end : block.start()].strip()))
        end = block.end()
    return found


def commands(page: str) -> list[Command]:
    found: list[Command] = []
    for language, content, follows in blocks(page):
        if language == "sh":
            typed = map(uncommented, content.replace("\\\n", " ").splitlines())
            found += [Command(text, None) for text in typed if text]
        elif language in ("text", "console") and follows and found:
            found[-1] = found[-1]._replace(output=content)
    return found


def uncommented(line: str) -> str:
    """A line without its comment; spaces between words once."""
    for comment in re.finditer(r"(?:^|\s)#", line):
        kept = line[: comment.start()]
        if kept.count("'") % 2 == kept.count('"') % 2 == 0:
            return " ".join(kept.split())
    return " ".join(line.split())


def reason(text: str) -> str | None:
    for why, patterns in NOT_RUN.items():
        if any(re.fullmatch(pattern, text) for pattern in patterns):
            return why
    return None


def lines(text: str) -> list[str]:
    """Lines of an output, with numbers blanked and spaces between words once."""
    blanked = re.sub(r"\d[\d,]*(\.\d+)?", "#", text)
    return [" ".join(line.split()) for line in blanked.splitlines() if line.strip()]


def matches(shown: list[str], found: list[str]) -> bool:
    """Whether an output is what a page shows of it."""
    if not shown or not found:
        return not [line for line in shown if line != "…"] and (bool(shown) or not found)
    if shown[0] == "…":
        return matches(shown[1:], found) or matches(shown, found[1:])
    return shown[0] == found[0] and matches(shown[1:], found[1:])


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, exported, captioner_as) -> Path:
    """The working tree, with what the pages take for granted.

    ``mine.yaml``, ``queries.txt``, ``pages/``, ``page.png``, the tables of two runs under
    ``results/`` and ``old/results/``, and the exported folders that the pages name there.
    """
    place = tmp_path_factory.mktemp("documented")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, files.decode().split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, place / name)
    run = {"models": ["tiny"], "variants": ["fp32"], "providers": ["cpu"]}
    mine = {"run": run, "models": {"tiny": TINY}}
    (place / "mine.yaml").write_text(yaml.safe_dump(mine))
    (place / "queries.txt").write_text("a red pie chart\nblue bars\n")
    (place / "pages").mkdir()
    for index in range(2):
        page_models.page(300, 400, index).save(place / f"pages/{index}.png")
    page_models.page(300, 400).save(place / "page.png")
    Run().write(place / "old/results")
    Run().write(place / "results")
    for page in PAGES:
        for model, variant in re.findall(r"results/models/([\w-]+)/([\w-]+)", text_of(page)):
            folder = place / "results/models" / model / variant
            if not folder.exists():
                shutil.copytree(exported[FAMILIES[model]], folder)
    shutil.copytree(captioner_as("vit-gpt2")[1], place / "exported/captioner")
    return place


@functools.cache  # several pages have the same command
def run(arguments: tuple[str, ...], place: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(place / "scripts"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
    }
    return subprocess.run(arguments, cwd=place, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in OWN_TEST])
def test_commands_run_as_they_are_typed(page, workspace):
    for command in commands(text_of(page)):
        if reason(command.text) is not None:
            assert command.output is None, f"{command.text}: its output is not checked"
            continue
        is_dry = any(re.fullmatch(pattern, command.text) for pattern in DRY)
        typed = command.text + (" --dry-run --quiet" if is_dry else "")
        done = run(("bash", "-e", "-c", typed), workspace)
        assert done.returncode == 0, f"{page}: {typed}\n{done.stdout}{done.stderr}"
        if command.output is not None:
            found = lines(done.stdout)
            assert matches(lines(command.output), found), f"{typed} prints\n{done.stdout}"


def test_the_python_of_the_readme_runs(workspace):
    typed = [
        content for language, content, _ in blocks(text_of("README.md")) if language == "python"
    ]
    assert typed
    given = 'from PIL import Image\npage = Image.open("page.png")\n'
    done = run((sys.executable, "-c", given + "\n".join(typed)), workspace)
    assert done.returncode == 0, done.stderr


def test_every_reason_is_needed():
    every = [command.text for page in PAGES for command in commands(text_of(page))]
    patterns = [*DRY, *(pattern for group in NOT_RUN.values() for pattern in group)]
    unused = [p for p in patterns if not any(re.fullmatch(p, text) for text in every)]
    assert unused == []
    assert [page for page in OWN_TEST if not (ROOT / page).is_file()] == []


def test_a_page_is_read_command_by_command():
    page = """
```sh
colport a 'x # y'   --b \\
    c  # why
# only a comment
colport d#e
```

```text
12 pages, 3.5 MB
…
done
```

Some words.

```text
no output
```
"""
    assert commands(page) == [
        Command("colport a 'x # y' --b c", None),
        Command("colport d#e", "12 pages, 3.5 MB\n…\ndone\n"),
    ]


@pytest.mark.parametrize(
    ("shown", "found", "is_same"),
    [
        ("1 a\n", "23.5   a\n", True),
        ("1 a\n", "1 b\n", False),
        ("1 a\n", "1 a\nmore\n", False),
        ("1 a\n…\n", "1 a\nmore\n", True),
        ("…\nlast\n", "1\n2\nlast\n", True),
        ("…\nlast\n", "1\nlast\n2\n", False),
        ("1 a\n", "", False),
        ("…\n", "", True),
    ],
)
def test_outputs_are_compared_with_numbers_blanked(shown, found, is_same):
    assert matches(lines(shown), lines(found)) == is_same
