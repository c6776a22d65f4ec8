"""From a model on the meta device to an ONNX graph whose weights are names without values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import torch

from colport.base.errors import ColPortError, ExportError
from colport.export.layers import one_of_each_kind
from colport.export.optimise import quiet
from colport.families.base import GraphDefinition, Skeleton

_PREFIX = "model."
_FEWEST = 2  # torch traces no other size for 1, which then runs as well
_LATEST = 23  # operator set that torch writes; what it writes is the same in 24


class GraphModule(torch.nn.Module):
    """One graph of a model as a module, so that torch can trace it."""

    def __init__(self, model: torch.nn.Module, definition: GraphDefinition) -> None:
        super().__init__()
        self.model = model
        self._definition = definition

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """The outputs of its definition."""
        sizes: dict[str, Any] = {}
        for item, tensor in zip(self._definition.inputs, inputs, strict=True):
            for axis, name in item.axes.items():
                size = tensor.shape[axis]
                torch._check(size == sizes.setdefault(name, size))
        return self._definition.forward(self.model, *inputs)


def trace(skeleton: Skeleton, definition: GraphDefinition, opset: int) -> ir.Model:
    """Trace one graph without running it on data, with one layer of each kind in a stack.

    Initializers carry the skeleton's parameter names; their values are absent. The stacks are
    completed by :func:`colport.export.layers.repeat_layers`.

    Raises:
        ExportError: An axis that should be dynamic is not, or only within bounds; or a stack is not
            what its family says.
    """
    example = example_inputs(definition, "meta")
    dynamic = tuple(
        dict.fromkeys(item.axes, torch.export.Dim.DYNAMIC) for item in definition.inputs
    )
    # Few calls of a trace repeat: torch's cache of their results takes more time than it saves.
    uncached = torch._dynamo.config.patch(fake_tensor_cache_enabled=False)
    # A size that follows from others, as of patches merged by four, may be 1 as well.
    any_size = torch.fx.experimental._config.patch(backed_size_oblivious=True)
    stacks = [stack for stack in skeleton.stacks if stack.name not in definition.whole]
    with quiet(), uncached, any_size, one_of_each_kind(skeleton.model, stacks):
        exported = torch.export.export(
            GraphModule(skeleton.model, definition), example, dynamic_shapes={"inputs": dynamic}
        )
        _check_sizes(exported, skeleton.longest)
        model = torch.onnx.export(
            exported, dynamo=True, optimize=False, opset_version=min(opset, _LATEST), verbose=False
        ).model
    model.opset_imports[""] = opset
    _name_interface(model, definition)
    for value in list(model.graph.initializers.values()):
        value.name = value.name.removeprefix(_PREFIX)
    model.graph.name = definition.name
    return model


def _check_sizes(exported: torch.export.ExportedProgram, longest: float) -> None:
    """Refuse a graph for some sizes alone, where the model computes others in another way."""
    for sizes in exported.range_constraints.values():
        for bound, is_within in (
            (f"shorter than {sizes.lower}", sizes.lower <= _FEWEST),
            (f"longer than {sizes.upper}", sizes.upper >= longest),
        ):
            if not is_within:
                raise ExportError(
                    f"the model's code takes another way for inputs {bound}; a graph holds one way."
                )


@contextmanager
def naming(skeleton: Skeleton, definition: GraphDefinition) -> Iterator[None]:
    """Turn whatever is raised inside the block into one sentence with the backbone's name.

    Raises:
        ColPortError: Of the class that was raised, with the name before its sentence.
        ExportError: torch or a graph tool raised; the first line of its reason is given.
    """
    place = f"backbone {skeleton.backbone}: {definition.name} graph"
    try:
        yield
    except ColPortError as error:
        raise type(error)(f"{place}: {error}") from error
    except Exception as error:
        cause: BaseException = error
        while isinstance(cause, torch.onnx.OnnxExporterError) and cause.__cause__:
            cause = cause.__cause__
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        reason = lines[0].rstrip(".") if lines else "no reason given"
        raise ExportError(
            f"{place}: cannot be exported ({type(cause).__name__}: {reason})."
        ) from error


def example_inputs(definition: GraphDefinition, device: str) -> tuple[torch.Tensor, ...]:
    """Zeros of the shapes to trace a graph with."""
    return tuple(
        torch.zeros(item.example, dtype=getattr(torch, item.dtype), device=device)
        for item in definition.inputs
    )


def _name_interface(model: ir.Model, definition: GraphDefinition) -> None:
    """Give inputs, outputs and dynamic axes their declared names, everywhere in the graph."""
    names: dict[str | None, str] = {}
    for value, item in zip(model.graph.inputs, definition.inputs, strict=True):
        value.name = item.name
        for axis, name in item.axes.items():
            symbol = value.shape[axis]
            if isinstance(symbol, int):
                raise ExportError(f"axis {name!r} of {item.name} froze at {symbol}.")
            names.setdefault(symbol.value, name)
    for value, name in zip(model.graph.outputs, definition.outputs, strict=True):
        value.name = name
    made = (value for node in model.graph.all_nodes() for value in node.outputs)
    for value in (*model.graph.inputs, *made):
        if value.shape is not None and not value.shape.frozen:
            dims = (names.get(getattr(dim, "value", None), dim) for dim in value.shape)
            value.shape = ir.Shape(dims)
    for value in model.graph.outputs:  # where it is a sum of axes, too
        value.shape = ir.Shape(_renamed(dim, names) for dim in value.shape or ())


def _renamed(dim: int | ir.SymbolicDim, names: Mapping[str | None, str]) -> int | str:
    if isinstance(dim, int):
        return dim
    return re.sub(r"\w+", lambda found: names.get(found[0], found[0]), str(dim.value))
