"""The search for the cheapest mixture: costs, steps, and trials on a graph with all forms."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from colport.families.base import Batch
from colport.quantize import sensitivity
from colport.quantize.recipe import Recipe
from colport.quantize.settings import QuantizeSettings, Sensitivity
from colport.quantize.sites import find_groups
from tests.products import EXPECTED, activations, graph, quantized


def test_loss_is_in_units_of_what_is_allowed():
    target = Sensitivity(mean_cosine=0.99, min_cosine=0.9)
    assert sensitivity.Quality(0.98, 0.7).loss(target) == pytest.approx(2 + 3)
    assert sensitivity.EXACT.loss(target) == 0
    for mean, least, reached in ((0.99, 0.9, True), (0.9899, 1, False), (1, 0.8999, False)):
        assert sensitivity.Quality(mean, least).reaches(target) is reached


def test_the_cost_of_each_form():
    query, out = find_groups({"text": graph()}, QuantizeSettings())
    both = find_groups({"text": graph(), "image": graph("image")}, QuantizeSettings())[0]

    def cost(group, form):
        return sensitivity._cost(group, Recipe(form))

    assert cost(out, "int4_blocks") == 192 / 8
    assert cost(out, "int8_blocks") == 192 / 4
    assert cost(query, "static") == cost(query, "per_tensor") == 576 / 8
    # A pass over the activation, and one over what the products put out.
    assert cost(query, "per_token") == 576 / 8 + 32 * (24 + 24)
    assert cost(both, "per_token") == 576 / 8 + 32 * (2 * 24 + 24)


class Tried:
    """Qualities by what is said of a choice, in place of graphs."""

    def __init__(self, lost):
        self._lost, self.count = lost, 0

    def __call__(self, models, ladders, batches, settings, scratch):
        self.floats = {group.name: len(ladder) for group, ladder in ladders}
        return self

    def run(self, choice, least=None):
        self.count += 1
        loss = sum(self._lost[name][place] for name, place in choice.items())
        if least is not None and 1 - loss < least:
            return sensitivity.Quality(-1, -1)  # of a part of the inputs: nothing may be made of it
        return sensitivity.Quality(1 - loss, 1 - loss)


def searched(lost, target, forms, monkeypatch, models=None, error=None):
    groups = find_groups(models or {"text": graph()}, QuantizeSettings())
    error = error or dict.fromkeys(lost, 1.0)
    ladders = [
        (group, [Recipe(form, error=error[group.name]) for form in forms]) for group in groups
    ]
    lines = []
    monkeypatch.setattr(sensitivity, "_Trial", Tried(lost))
    settings = QuantizeSettings(sensitivity=target)
    return sensitivity.search({}, ladders, [], settings, None, lines.append), lines


def test_the_step_that_saves_most_for_its_cost_is_taken(monkeypatch):
    # Losses of each rung, the float one last.
    lost = {"query": [0.08, 0.045, 0.0], "out": [0.04, 0.03, 0.0]}
    forms = ["int4_blocks", "int8_blocks"]

    def choice(allowed):
        target = Sensitivity(1 - allowed, 1 - allowed)
        found, lines = searched(lost, target, forms, monkeypatch)
        return dict(found.choice), found, lines

    cheapest, found, lines = choice(0.121)
    assert cheapest == {"query": 0, "out": 0}
    assert (found.trials, found.rungs) == (1, {})
    assert lines[-1].startswith("0 of 2 groups above their cheapest form")
    # A step to eight bits costs query 72 and saves 0.035; it costs out 24 and saves 0.01.
    finer, found, lines = choice(0.09)
    assert finer == {"query": 1, "out": 0}
    assert found.trials == 4 + 1 + 2  # each form by itself, the cheapest, and a path of three
    assert [rung.form for rung in found.rungs["out"].values()] == [*forms, "float"]
    assert [rung.cost for rung in found.rungs["out"].values()] == [24, 48, 192]
    assert found.rungs["query"][0].alone == sensitivity.Quality(1 - 0.08, 1 - 0.08)
    assert choice(0.08)[0] == {"query": 1, "out": 1}
    assert choice(0.05)[0] == {"query": 1, "out": 2}
    everything, found, lines = choice(0.001)
    assert everything == {"query": 2, "out": 2}
    assert (found.quality, found.trials) == (sensitivity.EXACT, 4 + 1 + 3)
    assert lines == [
        "tried 2 kinds of groups by themselves",
        "2 of 2 groups above their cheapest form: Quality(mean_cosine=1.0, min_cosine=1.0)",
    ]


def test_a_step_may_pass_over_a_form_that_saves_little(monkeypatch):
    lost = {"query": [0.08, 0.0799, 0.0], "out": [0.04, 0.0399, 0.0]}
    forms = ["int4_blocks", "int8_blocks"]
    found, _ = searched(lost, Sensitivity(0.9, 0.9), forms, monkeypatch)
    assert (dict(found.choice), found.trials) == ({"query": 0, "out": 2}, 4 + 1 + 1)


def test_a_kind_that_loses_next_to_nothing_has_no_finer_form_tried(monkeypatch):
    forms = ["static", "per_token"]
    for least, tried in ((0.000499, [0, 2]), (0.000501, [0, 1, 2])):
        # Of what is allowed, mean and least cosine together: a hundredth.
        lost = {"query": [0.11, 0.02, 0.0], "out": [least, 0.0, 0.0]}
        found, _ = searched(lost, Sensitivity(0.9, 0.9), forms, monkeypatch)
        assert {name: list(rungs) for name, rungs in found.rungs.items()} == {
            "query": [0, 1, 2],
            "out": tried,
        }
        assert dict(found.choice) == {"query": 2, "out": 0}
        assert found.trials == 1 + 2 + len(tried) - 1 + 1
    # Float is there all the same, where the target needs it.
    lost = {"query": [0.11, 0.1, 0.0999], "out": [0.0004, 0.0, 0.0]}
    found, _ = searched(lost, Sensitivity(0.9, 0.9), forms, monkeypatch)
    assert dict(found.choice) == {"query": 2, "out": 2}


def layers(count):
    """So many products of one shape, one after the other."""
    names = [f"w{place}" for place in range(count)]
    nodes = [
        helper.make_node("MatMul", [f"x{place}", name], [f"x{place + 1}"])
        for place, name in enumerate(names)
    ]
    values = [helper.make_tensor_value_info(f"x{place}", 1, [4, 4]) for place in (0, count)]
    stored = [numpy_helper.from_array(np.eye(4, dtype=np.float32), name) for name in names]
    made = helper.make_graph(nodes, "layers", values[:1], values[1:], stored)
    return ir.serde.deserialize_model(helper.make_model(made))


@pytest.mark.parametrize(("count", "trials"), [(8, 1 + 1 + 3), (64, 1 + 1 + 6)])
def test_layers_are_tried_at_once_and_their_own_errors_say_which_loses_most(
    count, trials, monkeypatch
):
    losses = {f"w{place}": (place * 5 % count + 1) / 1e4 for place in range(count)}
    lost = {name: [loss, 0.0] for name, loss in losses.items()}
    errors = {name: 3 * loss for name, loss in losses.items()}
    allowed = 1 - sum(sorted(losses.values())[:-3]) - 5e-5
    target = Sensitivity(allowed, allowed)
    found, _ = searched(lost, target, ["static"], monkeypatch, {"text": layers(count)}, errors)
    raised = {name for name, place in found.choice.items() if place}
    assert raised == set(sorted(losses, key=losses.get)[-3:])
    assert found.trials == trials
    total = sum(losses.values())
    for name, rungs in found.rungs.items():
        cheapest, exact = rungs.values()
        assert cheapest.share == pytest.approx(losses[name] / total)
        assert cheapest.alone.mean_cosine == pytest.approx(1 - total)
        assert exact.alone == sensitivity.EXACT


def test_groups_without_an_error_share_their_kind_s_loss_with_none(monkeypatch):
    lost = {"w0": [0.1, 0.0], "w1": [0.0, 0.0]}
    for errors in ({"w0": 2.0, "w1": 0.0}, {"w0": 0.0, "w1": 0.0}):
        target = Sensitivity(0.95, 0.95)
        found, _ = searched(lost, target, ["static"], monkeypatch, {"text": layers(2)}, errors)
        assert found.quality.reaches(target)


def test_a_target_that_floats_do_not_reach_ends_the_search(monkeypatch):
    lost = {"query": [0.1, 0.1], "out": [0.1, 0.1]}
    found, _ = searched(lost, Sensitivity(0.99, 0.99), ["static"], monkeypatch)
    assert dict(found.choice) == {"query": 1, "out": 1}
    assert found.quality == sensitivity.Quality(0.8, 0.8)


def test_a_trial_runs_the_chosen_forms(tmp_path):
    """Each mixture as if it had been written so, and only kept tokens count."""

    def embeddings(model):  # a model's graph has one output
        model.graph.outputs[:] = [model.graph.outputs[1]]
        return model

    model = embeddings(graph())
    groups = find_groups({"text": model}, QuantizeSettings())
    forms = [Recipe("static", range=(-0.5, 0.5)), Recipe("per_token")]
    ladders = [(group, forms) for group in groups]
    x, keep = activations(), np.ones((3, 5), bool)
    keep[0] = keep[2, 3:] = False
    batch = Batch("text", {"x": x}, keep)
    settings = QuantizeSettings()
    trial = sensitivity._Trial({"text": model}, ladders, [batch], settings, tmp_path / "search")
    assert trial.floats == {"query": 2, "out": 2}
    for choice in ((2, 2), (0, 2), (2, 0), (1, 2), (1, 1), (0, 1)):
        named = dict(zip(("query", "out"), choice, strict=True))
        recipes = {name: forms[place] for name, place in named.items() if place < 2}
        found, _, _ = quantized(recipes, settings)
        one, other = found["y"][keep], EXPECTED["y"][keep]
        cosines = (one * other).sum(1) / (
            np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        )
        quality = trial.run(named)
        assert quality.mean_cosine == pytest.approx(cosines.mean(), abs=1e-5)
        assert quality.min_cosine == pytest.approx(cosines.min(), abs=1e-5)
    assert trial.count == 6


def test_a_trial_ends_with_the_batch_that_has_less_than_it_may(tmp_path):
    model = graph()
    model.graph.outputs[:] = [model.graph.outputs[1]]
    ladders = [
        (group, [Recipe("static", range=(-0.5, 0.5))])
        for group in find_groups({"text": model}, QuantizeSettings())
    ]
    x, settings = activations(), QuantizeSettings()
    batches = [Batch("text", {"x": x[row : row + 1]}, np.ones((1, 5), bool)) for row in range(3)]
    one, trial = (
        sensitivity._Trial(
            {"text": model}, ladders, batches[:count], settings, tmp_path / str(count)
        )
        for count in (1, 3)
    )
    worst = dict.fromkeys(trial.floats, 0)
    first, whole = one.run(worst), trial.run(worst)
    assert trial.run(worst, first.min_cosine + 1e-3) == first
    assert trial.run(worst, whole.min_cosine) == trial.run(worst) == whole
