"""Which groups can be integers: the cheapest mixture that loses no more than it may is searched.

All forms of all groups are put into one graph, with a switch each, so that a trial is only another
run of it. A group climbs a ladder of forms that err less and cost more, up to its float form.

Trials do not grow with the number of layers. What a form loses at the output is measured for each
kind of group, the same place in every layer, at once, from the cheapest form to the first that
loses next to nothing. Losses of groups add up, since their errors are independent. A group's share
of its kind's loss is that of its own error, which the calibration knows. (Across kinds such errors
say nothing: some of them hardly reach the output.) The steps up, those that save most loss for
their cost first, are one path, on which the target is bisected.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir

from colport.families.base import Batch
from colport.quantize.calibration import open_sessions
from colport.quantize.products import IntegerForm
from colport.quantize.recipe import Recipe
from colport.quantize.settings import QuantizeSettings, Sensitivity
from colport.quantize.sites import Group, copied
from colport.tensors.editing import Chain

FLOAT = "float"
"""Name of the last rung of every ladder."""

_FLOAT_BITS = 32
_INTEGER_COST = 1 / 8
_PASS_COST = 32
"""Time of an integer product, and of reading and writing one more value, in multiply-adds of a
float product: as measured on MiniLM at 1024 tokens with AVX-512 VNNI."""

_NEXT_TO_NOTHING = 0.01
"""A kind of groups that loses less, of what the target allows, has no finer form tried."""

Ladder = Sequence[Recipe]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Quality:
    """Cosines of token embeddings with those of the float graphs.

    Attributes:
        mean_cosine: Their mean.
        min_cosine: The smallest.
    """

    mean_cosine: float
    min_cosine: float

    def loss(self, target: Sensitivity) -> float:
        """How far it lies from one, in units of what the target allows."""
        of_mean = (1 - self.mean_cosine) / (1 - target.mean_cosine)
        return of_mean + (1 - self.min_cosine) / (1 - target.min_cosine)

    def reaches(self, target: Sensitivity) -> bool:
        """Whether it is at least the target."""
        return self.mean_cosine >= target.mean_cosine and self.min_cosine >= target.min_cosine


EXACT = Quality(1.0, 1.0)


@dataclass(frozen=True)
class Rung:
    """One form of a group.

    Attributes:
        form: Its name.
        cost: Estimated time a token, in multiply-adds of a float product; of weights alone their
            size, in float weights.
        alone: Measured with this form of all groups of its kind, and every other group in float.
        share: The part of its kind's loss that is this group's.
    """

    form: str
    cost: float
    alone: Quality
    share: float = 1.0

    def loss(self, target: Sensitivity) -> float:
        """What the group loses in this form."""
        return self.share * self.alone.loss(target)


_Rungs = Mapping[str, Mapping[int, Rung]]


@dataclass(frozen=True)
class Outcome:
    """What the search found.

    Attributes:
        rungs: Group name to the rungs of its ladder that were tried, by their places in it, and
            float behind them; empty where the cheapest forms reach the target.
        choice: Group name to the place of its rung.
        quality: Of the mixture.
        trials: Runs over the inputs.
    """

    rungs: _Rungs
    choice: Mapping[str, int]
    quality: Quality
    trials: int


def search(
    models: Mapping[str, ir.Model],
    ladders: Sequence[tuple[Group, Ladder]],
    batches: Sequence[Batch],
    settings: QuantizeSettings,
    scratch: Path,
    report: Report,
) -> Outcome:
    """Choose each group's form so that the target is reached at little cost.

    Where the cheapest forms of all groups together miss it, each form of each kind of group is
    tried by itself, and as many steps up are taken, the best first, as the target needs.

    Args:
        models: Graphs of the base.
        ladders: Groups with their integer forms, the cheapest first.
        batches: Inputs; embeddings of the float graphs are the standard.
        settings: Target, bits and block size.
        scratch: An empty folder for the graphs.
        report: Called with a line for each step.
    """
    trial = _Trial(models, ladders, batches, settings, scratch)
    rungs: dict[str, dict[int, Rung]] = {}
    path: list[tuple[str, int]] = []
    target = settings.sensitivity

    def choice(steps: int) -> dict[str, int]:
        return {**dict.fromkeys(trial.floats, 0), **dict(path[:steps])}

    @cache
    def quality(steps: int) -> Quality:
        # Whichever mixture may be the last one is run on all inputs, whatever it loses.
        return trial.run(choice(steps), target.min_cosine if steps < len(path) else -1.0)

    taken = 0
    if not quality(0).reaches(target):
        kinds = _kinds(ladders)
        for kind in kinds:
            rungs |= _rungs(trial, kind, target)
        report(f"tried {len(kinds)} kinds of groups by themselves")
        path = list(_path(rungs, target))
        places = range(len(path))
        taken = bisect_left(places, True, lo=1, key=lambda steps: quality(steps).reaches(target))
    above = sum(1 for place in choice(taken).values() if place)
    report(f"{above} of {len(ladders)} groups above their cheapest form: {quality(taken)}")
    return Outcome(rungs, choice(taken), quality(taken), trial.count)


def _kinds(ladders: Sequence[tuple[Group, Ladder]]) -> list[list[tuple[Group, Ladder]]]:
    """Groups of the same graphs, operators and shapes, which have the same place in their layer."""
    kinds: dict[object, list[tuple[Group, Ladder]]] = {}
    for group, ladder in ladders:
        sites = ((s.graph, s.is_table, *s.weight.shape) for s in group.sites)
        kinds.setdefault(tuple(sites), []).append((group, ladder))
    return list(kinds.values())


def _rungs(
    trial: _Trial, kind: Sequence[tuple[Group, Ladder]], target: Sensitivity
) -> dict[str, dict[int, Rung]]:
    """What is tried of the ladder of each group of a kind, and float."""
    rungs: dict[str, dict[int, Rung]] = {group.name: {} for group, _ in kind}
    for place in range(len(kind[0][1])):
        alone = trial.run({**trial.floats, **dict.fromkeys(rungs, place)})
        total = sum(ladder[place].error for _, ladder in kind) or 1.0
        for group, ladder in kind:
            recipe = ladder[place]
            share = recipe.error / total
            rungs[group.name][place] = Rung(recipe.form, _cost(group, recipe), alone, share)
        if alone.loss(target) < _NEXT_TO_NOTHING:
            break
    for group, ladder in kind:
        rungs[group.name][len(ladder)] = Rung(FLOAT, group.parameters, EXACT)
    return rungs


def _cost(group: Group, recipe: Recipe) -> float:
    if recipe.block_bits:
        return recipe.block_bits / _FLOAT_BITS * group.parameters
    integer = _INTEGER_COST * group.parameters
    if recipe.form != "per_token":
        return integer
    activations = {site.activation for site in group.sites}
    outputs = group.parameters // group.width
    return integer + _PASS_COST * (len(activations) * group.width + outputs)


def _path(rungs: _Rungs, target: Sensitivity) -> Iterator[tuple[str, int]]:
    """All steps from the cheapest forms to float ones: a group, and the rung that it then is on."""
    places = dict.fromkeys(rungs, 0)

    def steps() -> Iterator[tuple[float, str, int]]:
        """Every step up: the loss it saves for its cost, the group, and the rung it leads to."""
        for name, place in places.items():
            here = rungs[name][place]
            for above, there in rungs[name].items():
                if above > place:
                    saved = here.loss(target) - there.loss(target)
                    yield saved / (there.cost - here.cost), name, above

    while found := list(steps()):
        _, name, places[name] = max(found)
        yield name, places[name]


@dataclass
class _Trial:
    """The graphs with all forms, ready to run with any choice of them.

    ``count`` says how often they did, ``floats`` is the choice of no integers.
    """

    models: Mapping[str, ir.Model]
    ladders: Sequence[tuple[Group, Ladder]]
    batches: Sequence[Batch]
    settings: QuantizeSettings
    scratch: Path
    count: int = 0

    def __post_init__(self) -> None:
        self._switches: list[tuple[str, str, int]] = []
        copies, groups = copied(self.models, [group for group, _ in self.ladders])
        for number, (group, (_, ladder)) in enumerate(zip(groups, self.ladders, strict=True)):
            switches = [f"switch.{number}.{place}" for place in range(len(ladder))]
            _add_forms(group, ladder, self.settings, switches)
            self._switches += [(switch, group.name, place) for place, switch in enumerate(switches)]
        for model in copies.values():
            model.graph.sort()
        self._sessions = open_sessions(copies, self.scratch)
        self.floats = {group.name: len(ladder) for group, ladder in self.ladders}
        self._exact = list(self._embeddings(self.floats))

    def run(self, choice: Mapping[str, int], least: float = -1.0) -> Quality:
        """Quality of the embeddings with these rungs; a cosine below ``least`` ends the run."""
        self.count += 1
        cosines: list[np.ndarray] = []
        for one, other in zip(self._embeddings(choice), self._exact, strict=True):
            norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
            cosines.append((one * other).sum(axis=1) / np.maximum(norms, 1e-12))
            if cosines[-1].min() < least:
                break
        found = np.concatenate(cosines)
        return Quality(float(found.mean()), float(found.min()))

    def _embeddings(self, choice: Mapping[str, int]) -> Iterator[np.ndarray]:
        """Kept token embeddings of each batch, ``[tokens, dim]``."""
        for batch in self.batches:
            session = self._sessions[batch.graph]
            inputs = {item.name for item in session.get_inputs()}
            switches = {
                switch: np.array(choice[name] == place)
                for switch, name, place in self._switches
                if switch in inputs
            }
            (output,) = session.run(None, {**batch.feeds, **switches})
            yield output[batch.keep]


def _add_forms(
    group: Group, ladder: Ladder, settings: QuantizeSettings, switches: Sequence[str]
) -> None:
    """Put every form of a group beside its float form, each behind a new input of its graphs."""
    inputs: dict[int, list[ir.Value]] = {}
    for site in group.sites:
        graph = site.graph
        if id(graph) not in inputs:
            inputs[id(graph)] = [_switch(name) for name in switches]
            graph.inputs.extend(inputs[id(graph)])
        old = value = site.result
        readers = list(old.uses())
        chain = Chain(graph)
        for place, (recipe, switch) in enumerate(zip(ladder, inputs[id(graph)], strict=True)):
            integer, same = Chain(graph), Chain(graph)
            IntegerForm(group, recipe, settings, f".{place}").write(integer, site)
            same.add("Identity", [value])
            branches = {
                "then_branch": _branch(integer, f"{old.name}.{place}.integer"),
                "else_branch": _branch(same, f"{old.name}.{place}.same"),
            }
            value = chain.add("If", [switch], branches)
        graph.insert_after(old.producer(), chain.nodes)
        for reader, place in readers:
            reader.replace_input_with(place, value)


def _branch(chain: Chain, name: str) -> ir.Graph:
    """The nodes of a chain as a graph of their own; names are unique in the whole model."""
    for number, value in enumerate(value for node in chain.nodes for value in node.outputs):
        value.name = f"{name}.{number}"
    result = chain.nodes[-1].outputs[0]
    result.type = ir.TensorType(ir.DataType.FLOAT)
    return ir.Graph([], [result], nodes=chain.nodes, name=name)


def _switch(name: str) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape([]), type=ir.TensorType(ir.DataType.BOOL))
