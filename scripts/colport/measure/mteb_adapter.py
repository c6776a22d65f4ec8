"""An exported folder as a model of mteb, and a dataset of ours as one of its tasks.

The only module that imports mteb; ``pip install 'colport[mteb]'`` brings it.

mteb's scores are ours: it, too, evaluates the first 1000 documents with pytrec_eval, which orders
equal scores by descending id. Two things differ. mteb rounds NDCG, recall and MAP to five decimals;
and of documents that tie for the thousandth place it keeps any, we those with the last ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from colport.base.errors import ConfigError, DatasetError, UnsupportedError
from colport.base.redaction import plain
from colport.data.base import RetrievalDataset
from colport.runtime.remote import open_encoder
from colport.scoring.maxsim import maxsim

try:
    import mteb
    from datasets import Dataset
    from datasets.exceptions import DatasetsError
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.model_meta import ModelMeta, ScoringFunction
    from mteb.types import PromptType
except ModuleNotFoundError as error:
    raise UnsupportedError(
        f"{error.name} is not installed; pip install 'colport[mteb]' brings it."
    ) from error

UNDETERMINED = "und"
"""ISO 639-3 code of a language that is not known."""


_UNKNOWN = (
    *("loader", "release_date", "languages", "memory_usage_mb", "max_tokens", "license"),
    *("public_training_code", "public_training_data", "training_datasets"),
)
"""What ``ModelMeta`` asks for and a folder does not say."""


class ColPortEncoder:
    """An exported folder behind mteb's encoder interface (``mteb.EncoderProtocol``).

    Embeddings stay ragged, a ``[tokens, dim]`` array an input, from :meth:`encode` to
    :meth:`similarity`: padding with zeros would lift every negative maximum of MaxSim to zero.

    Args:
        folder: The exported folder.
        name: Name that the results are stored under, ``organisation/model``.
        provider: See :func:`colport.runtime.remote.open_encoder`.
        threads: Threads within an operator.

    Raises:
        ConfigError: The name has another form.
        ArtifactError: The folder is not a whole exported folder.
        UnsupportedError: The provider is not on this machine.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        name: str | None = None,
        provider: str | Mapping[str, Any] = "cpu",
        threads: int | None = None,
    ) -> None:
        name = name or f"colport/{Path(folder).resolve().name}"
        if name.count("/") != 1 or not all(name.split("/")):
            raise ConfigError(f"name: found {name!r}; allowed is organisation/model.")
        self._encoder = open_encoder(folder, provider, threads)
        manifest = self._encoder.manifest
        pages, single = self._encoder.document_type == "pages", manifest.is_single_vector
        self._column = "image" if pages else "text"
        self.mteb_model_meta = ModelMeta(
            **dict.fromkeys(_UNKNOWN),
            name=name,
            revision=manifest.digest,
            n_parameters=max(graph.parameters for graph in manifest.graphs.values()),
            embed_dim=manifest.dim,
            open_weights=True,
            framework=["ONNX"],
            similarity_fn_name=ScoringFunction.COSINE if single else ScoringFunction.MAX_SIM,
            use_instructions=False,
            modalities=["text", "image"] if pages else ["text"],
            model_type=["dense" if single else "late-interaction"],
        )

    def encode(
        self,
        inputs: Iterable[dict[str, Any]],
        *,
        prompt_type: PromptType | None = None,
        batch_size: int = 32,
        **_: Any,
    ) -> list[np.ndarray]:
        """Token embeddings of a data loader's inputs, one ``float32 [tokens, dim]`` each.

        Args:
            inputs: Batches with the column ``text``, or ``image`` for pages.
            prompt_type: Whether they are queries or documents.
            batch_size: Inputs in one graph call.

        Raises:
            ConfigError: The task is no retrieval task, or its documents are not what the model
                reads.
        """
        if prompt_type is None:
            raise ConfigError("An exported folder runs mteb's retrieval tasks only.")
        is_query = prompt_type == PromptType.query
        column = "text" if is_query else self._column
        encode = self._encoder.encode_queries if is_query else self._encoder.encode_documents
        embeddings: list[np.ndarray] = []
        for batch in inputs:
            if column not in batch:
                raise ConfigError(
                    f"The task's {prompt_type.value}s have no {column}; found "
                    f"{', '.join(sorted(batch))}."
                )
            embeddings += encode(batch[column], batch_size=batch_size)
        return embeddings

    def similarity(self, queries: Sequence[Any], documents: Sequence[Any]) -> np.ndarray:
        """MaxSim of every query with every document, ``float32 [queries, documents]``.

        Of two single vectors it is their cosine.
        """
        return maxsim([np.asarray(item) for item in queries], [np.asarray(d) for d in documents])

    def similarity_pairwise(self, queries: Sequence[Any], documents: Sequence[Any]) -> np.ndarray:
        """MaxSim of each query with the document at its place, ``float32 [queries]``."""
        pairs = zip(queries, documents, strict=True)
        return np.array([self.similarity([query], [page])[0, 0] for query, page in pairs])


def retrieval_task(dataset: RetrievalDataset, revision: str) -> mteb.AbsTask:
    """A dataset of ours as a task of mteb; its pages are decoded batch by batch.

    Args:
        dataset: With judgements; queries without any are left out, as mteb does.
        revision: Digest or commit, which mteb stores with the results.

    Raises:
        UnsupportedError: No query has a judgement.
    """
    judged = {query: dict(found) for query, found in dataset.qrels.items() if found}
    if not judged:
        raise UnsupportedError("No query has a judgement, which mteb's metrics need.")
    passages = isinstance(dataset.documents[0], str)
    ids = dataset.document_ids
    if passages:
        corpus = Dataset.from_dict({"id": ids, "text": list(dataset.documents)})
    else:

        def decoded(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
            pages = [dataset.documents[row] for row in batch.get("image", ())]
            return {**batch, "image": pages} if "image" in batch else batch

        rows = Dataset.from_dict({"id": ids, "image": range(len(ids))})
        corpus = rows.with_transform(decoded)
    queries = Dataset.from_dict({"id": dataset.query_ids, "text": dataset.queries})

    class Task(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=dataset.name,
            description=f"The dataset {dataset.name} of a ColPort run.",
            dataset={"path": dataset.name, "revision": revision},
            type="Retrieval" if passages else "DocumentUnderstanding",
            category="t2t" if passages else "t2i",
            modalities=["text"] if passages else ["text", "image"],
            eval_langs=[UNDETERMINED],
            main_score="ndcg_at_5",
        )

        def load_data(self, *_: Any, **__: Any) -> None:
            """Take what is already in memory."""
            split = {"corpus": corpus, "queries": queries, "relevant_docs": judged}
            self.dataset = {"default": {"test": {**split, "top_ranked": None}}}
            self.data_loaded = True

    return Task()


def named_tasks(names: Sequence[str]) -> list[mteb.AbsTask]:
    """Tasks of mteb by their names, with their datasets.

    Raises:
        ConfigError: mteb has no such task, or it is no retrieval task.
        DatasetError: Its dataset cannot be had.
    """
    tasks = []
    for name in names:
        try:
            tasks.append(mteb.get_task(name))
        except KeyError as error:
            raise ConfigError(f"tasks: mteb {mteb.__version__} has no task {name!r}.") from error
        if not isinstance(tasks[-1], AbsTaskRetrieval):
            raise ConfigError(f"tasks: {name!r} is no retrieval task.")
        try:
            tasks[-1].load_data()
        except (OSError, ValueError, DatasetsError) as error:
            raise DatasetError(f"{name}: its dataset cannot be loaded ({plain(error)}).") from error
    return tasks


def evaluate(
    encoder: ColPortEncoder, tasks: Sequence[mteb.AbsTask], output: Path | str, batch_size: int
) -> dict[str, float]:
    """Run tasks and keep the results in mteb's own form.

    Args:
        encoder: What to evaluate.
        tasks: What to evaluate it on.
        output: Folder of a ``mteb.ResultCache``: ``results/{name}/{revision}/{task}.json`` is
            written below it, with ``model_meta.json`` beside. A result that is there is kept.
        batch_size: Inputs in one graph call.

    Returns:
        Task name to its main score: NDCG@5 for a task of :func:`retrieval_task`.
    """
    found = mteb.evaluate(
        encoder,
        tasks,
        cache=mteb.ResultCache(Path(output)),
        encode_kwargs={"batch_size": batch_size, "show_progress_bar": False},
        show_progress_bar=False,
        co2_tracker=False,
    )
    return {result.task_name: result.get_score() for result in found.task_results}
