"""Score an exported folder with mteb."""

from __future__ import annotations

from typing import Annotated

import typer

from colport.cli.console import say, watch
from colport.cli.options import Folder, Output, Quiet


def mteb(
    folder: Folder,
    tasks: Annotated[
        list[str], typer.Option(help="Name of a retrieval task; may be given several times.")
    ],
    output: Output,
    name: Annotated[
        str | None,
        typer.Option(
            help="Name that the results are stored under, organisation/model; by default "
            "colport/ and the folder's name.",
            show_default=False,
        ),
    ] = None,
    provider: Annotated[str, typer.Option(help="Execution provider.")] = "cpu",
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs in one graph call.")] = 8,
    quiet: Quiet = False,
) -> None:
    """Score an exported folder on mteb's own retrieval tasks, with mteb's own result files.

    They lie below the output folder in results/NAME/DIGEST/TASK.json, where mteb.ResultCache
    finds them; a result that is there is not computed again. Needs the extra mteb of colport.

    \b
    Example: colport mteb exported/colpali --tasks VidoreDocVQARetrieval --output scores
    """
    from colport.measure import mteb_adapter

    encoder = mteb_adapter.ColPortEncoder(folder, name=name, provider=provider)
    chosen = mteb_adapter.named_tasks(tasks)
    with watch("encoding", quiet) as watched:
        watched.step(f"{', '.join(tasks)} with {provider}")
        scores = mteb_adapter.evaluate(encoder, chosen, output, batch_size)
    for task in chosen:
        say(f"{task.metadata.name}: {task.metadata.main_score} {scores[task.metadata.name]:.5f}")
