"""What can be quantized: matrix products and embedding tables, grouped by what they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from colport.quantize.settings import QuantizeSettings
from colport.tensors import editing

SMALL_TABLE = 1024
"""Tables with fewer rows stay float: each of their rows is in so many tokens, or in all of them,
that its error is not averaged out, and they are small. In MiniLM the two rows of token types cost
as much as all products together."""


@dataclass(frozen=True, eq=False)
class Site:
    """One operator on a stored matrix.

    Attributes:
        node: A ``MatMul`` with a stored right side, or a ``Gather`` of a stored table's rows.
        weight: The stored matrix.
    """

    node: ir.Node
    weight: ir.Value

    @classmethod
    def of(cls, node: ir.Node) -> Site:
        """The site of a ``MatMul`` or ``Gather``."""
        return cls(node, node.inputs[0 if node.op_type == "Gather" else 1])

    @property
    def graph(self) -> ir.Graph:
        """Graph that it is in."""
        return self.node.graph

    @property
    def is_table(self) -> bool:
        """Whether rows are looked up, not multiplied."""
        return self.node.op_type == "Gather"

    @property
    def activation(self) -> ir.Value:
        """Left side of the product, or the indices of the rows."""
        return self.node.inputs[1 if self.is_table else 0]

    @property
    def keys(self) -> list[object]:
        """What it shares with others of its group: the weight, and a product's activation."""
        return [self.weight.name] if self.is_table else [self.weight.name, self.activation]

    @property
    def bias(self) -> ir.Value | None:
        """A stored vector that is added to the product, if nothing else reads it."""
        product = self.node.outputs[0]
        uses = product.uses()
        if self.is_table or len(uses) != 1 or uses[0].node.op_type != "Add":
            return None
        others = [value for value in uses[0].node.inputs if value is not product]
        if len(others) != 1 or not others[0].is_initializer() or others[0].const_value is None:
            return None
        return others[0] if list(others[0].shape) == [self.weight.shape[1]] else None

    @property
    def result(self) -> ir.Value:
        """The product with its bias, or the rows."""
        product = self.node.outputs[0]
        return product if self.bias is None else product.uses()[0].node.outputs[0]


@dataclass(frozen=True)
class Group:
    """Sites that are quantized alike: products of one activation, such as query, key and value.

    Attributes:
        sites: In all graphs that share the weights.
        weights: Names of the weights, each once.
        parameters: Their number of elements.
    """

    sites: tuple[Site, ...]
    weights: tuple[str, ...]
    parameters: int

    @property
    def name(self) -> str:
        """The first weight's."""
        return self.weights[0]

    @property
    def is_table(self) -> bool:
        """Whether it is an embedding table."""
        return self.sites[0].is_table

    @property
    def width(self) -> int:
        """Size of the activation's last axis."""
        return int(self.sites[0].weight.shape[0])


def find_groups(models: Mapping[str, ir.Model], settings: QuantizeSettings) -> list[Group]:
    """Everything that the settings allow to quantize, in the order of the graphs."""
    together: dict[object, list[Site]] = {}
    for site in (site for model in models.values() for site in _sites(model.graph, settings)):
        # Shared activation or shared weight: either joins two sites.
        joined = [site]
        known = {id(together[key]): together[key] for key in site.keys if key in together}
        for members in known.values():
            joined = members + joined
        for member in joined:
            together |= dict.fromkeys(member.keys, joined)
    groups = {id(members): members for members in together.values()}
    return [_group(members) for members in groups.values()]


def copied(
    models: Mapping[str, ir.Model], groups: Sequence[Group]
) -> tuple[dict[str, ir.Model], list[Group]]:
    """The graphs and their groups once more, on the same weights, to add something to them."""
    copies = {name: model.clone() for name, model in models.items()}
    nodes: dict[ir.Node, ir.Node] = {}
    for name, model in models.items():
        nodes.update(zip(model.graph, copies[name].graph, strict=True))
    return copies, [
        replace(group, sites=tuple(Site.of(nodes[site.node]) for site in group.sites))
        for group in groups
    ]


def _group(sites: list[Site]) -> Group:
    weights = {site.weight.name: site.weight.const_value.size for site in sites}
    return Group(tuple(sites), tuple(weights), sum(weights.values()))


def _sites(graph: ir.Graph, settings: QuantizeSettings) -> Iterator[Site]:
    for node in graph:
        if node.op_type not in settings.operators or node.domain:
            continue
        site = Site.of(node)
        if not _is_matrix(site.weight) or settings.excludes(site.weight.name):
            continue
        if site.is_table and (
            node.attributes.get_int("axis", 0) != 0 or int(site.weight.shape[0]) < SMALL_TABLE
        ):
            continue
        yield site


def _is_matrix(value: ir.Value | None) -> bool:
    """Whether the value is a stored fp32 matrix."""
    if value is None or not value.is_initializer() or value.const_value is None:
        return False
    tensor = value.const_value
    return tensor.dtype == ir.DataType.FLOAT and len(tensor.shape) == 2


def split_gemm(graph: ir.Graph) -> None:
    """Write ``Gemm`` with a stored weight as ``MatMul`` and ``Add``, its plain meaning, in place.

    Products are then all of one kind, for :func:`find_groups`.
    """
    for node in list(graph):
        if node.op_type != "Gemm" or not _is_matrix(node.inputs[1]):
            continue
        plain = (
            node.attributes.get_float("alpha", 1.0) == 1.0
            and node.attributes.get_float("beta", 1.0) == 1.0
            and not node.attributes.get_int("transA", 0)
            and not node.attributes.get_int("transB", 0)
        )
        if not plain:
            continue
        nodes = [ir.node("MatMul", node.inputs[:2])]
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            nodes.append(ir.node("Add", [nodes[0].outputs[0], node.inputs[2]]))
        editing.replace(graph, node.outputs[0], nodes)
