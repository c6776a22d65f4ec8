"""A graph's calls: plain, with inputs and outputs bound, or padded to fixed shapes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from threading import Lock
from typing import Any

import numpy as np

from colport.base.library import onnxruntime
from colport.providers.settings import ProviderSettings

Feeds = Mapping[str, np.ndarray]
_GRAPH_ID = "gpu_graph_id"
_NOT_CAPTURED = "-1"
_ELEMENTS = {"tensor(float)": 1, "tensor(float16)": 10, "tensor(bfloat16)": 16}
"""ONNX's numbers of element types, by ONNX Runtime's names."""


class Graph:
    """A session, called as its provider's settings say; by several threads at once, too.

    Args:
        session: An ONNX Runtime session of a graph.
        settings: The provider.

    Attributes:
        axes: Input name to its shape: axis names where it is open.
    """

    def __init__(self, session: Any, settings: ProviderSettings) -> None:
        self.session = session
        self._settings = settings
        self._device = (settings.provider.memory, int(settings.options.get("device_id", 0)))
        self.axes = {item.name: item.shape for item in session.get_inputs()}
        self._outputs = [item.name for item in session.get_outputs()]
        self._captured: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        # Captured calls share their buffers.
        one_call = settings.cuda_graph or not settings.provider.is_concurrent
        self._turn = Lock() if one_call else nullcontext()

    def run(self, feeds: Feeds) -> np.ndarray:
        """The only output ``[batch, tokens, dim]`` of one batch, on the host."""
        with self._turn:
            padded, cut, is_fixed = pad(feeds, self.axes, self._settings.fixed_shapes)
            if not self._settings.io_binding:
                (output,) = self.session.run(None, dict(padded))
                return output[cut]
            if self._settings.cuda_graph and is_fixed:
                # A copy: on the host the array is the buffer that the next call fills.
                return self._replayed(padded).numpy()[cut].copy()
            (output,) = self._run_bound(padded).values()
            return output.numpy()[cut]

    def call(self, feeds: Mapping[str, Any], on_host: Collection[str] = ()) -> dict[str, Any]:
        """Every output by name, as an ``onnxruntime.OrtValue``; never padded.

        Args:
            feeds: Inputs, as arrays or as what another call gave.
            on_host: Outputs that are read here; the others stay in the provider's memory.
        """
        with self._turn:
            return self._run_bound(feeds, on_host)

    def empty(self, name: str, **sizes: int) -> Any:
        """An input of no elements, as an ``onnxruntime.OrtValue`` in the provider's memory.

        Args:
            name: The input.
            **sizes: Of its open axes; one is 0.
        """
        kinds = {item.name: item.type for item in self.session.get_inputs()}
        shape = [sizes.get(axis, axis) for axis in self.axes[name]]
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            shape, _ELEMENTS[kinds[name]], *self._device
        )

    def rows(self, value: Any, at: np.ndarray) -> Any:
        """Some rows of an ``onnxruntime.OrtValue``, in any order, as another one beside it."""
        return self._placed(value.numpy()[at])

    def _run_bound(self, feeds: Mapping[str, Any], on_host: Collection[str] = ()) -> dict[str, Any]:
        binding, _held = self._bound(feeds)  # bindings of older releases only point into inputs
        for name in self._outputs:
            binding.bind_output(name, *(("cpu",) if name in on_host else self._device))
        self.session.run_with_iobinding(binding, self._run_options(_NOT_CAPTURED))
        return dict(zip(self._outputs, binding.get_outputs(), strict=True))

    def _replayed(self, feeds: Feeds) -> Any:
        shapes = tuple((name, array.shape) for name, array in sorted(feeds.items()))
        if shapes not in self._captured:
            self._captured[shapes] = self._capture(feeds, str(len(self._captured) + 1))
        binding, values, output, options = self._captured[shapes]
        for name, array in feeds.items():
            values[name].update_inplace(np.ascontiguousarray(array))
        self.session.run_with_iobinding(binding, options)
        return output

    def _capture(self, feeds: Feeds, number: str) -> tuple[Any, dict[str, Any], Any, Any]:
        """Buffers for these shapes, which keep their place on the device as a captured graph needs.

        The output's shape is that of a call without a capture.
        """
        ((name, shaped),) = self._run_bound(feeds).items()
        output = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            shaped.shape(), np.float32, *self._device
        )
        binding, values = self._bound(feeds)
        binding.bind_ortvalue_output(name, output)
        return binding, values, output, self._run_options(number)

    def _bound(self, feeds: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """A binding with its inputs, and these."""
        values = {
            name: self._placed(value) if isinstance(value, np.ndarray) else value
            for name, value in feeds.items()
        }
        binding = self.session.io_binding()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        return binding, values

    def _placed(self, array: np.ndarray) -> Any:
        # On the host a value is the array itself, so it has to lie in one piece.
        whole = np.ascontiguousarray(array)
        return onnxruntime.OrtValue.ortvalue_from_numpy(whole, *self._device)

    def _run_options(self, number: str) -> Any:
        if not self._settings.cuda_graph:
            return None
        options = onnxruntime.RunOptions()
        options.add_run_config_entry(_GRAPH_ID, number)
        return options


_OUTPUT = ("batch", "tokens")
_WHOLE = (slice(None), slice(None))


def pad(
    feeds: Feeds, axes: Mapping[str, list[Any]], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Feeds, tuple[slice, slice], bool]:
    """Feeds padded to the next size of each axis, and how to cut the output.

    Further rows of a batch repeat its first one; further tokens are zeros, which attention masks
    out. Feeds stay as they are where a graph has other open axes (pages of any size), or where an
    axis is longer than every size.

    Args:
        feeds: Inputs of one call.
        axes: Input name to its shape in the graph: axis names where it is open.
        shapes: Axis name to sizes in ascending order.

    Returns:
        The feeds, the part of the output that is theirs, and whether their shapes are among the
        few that ``shapes`` allows.
    """
    places = [
        (axis, array.shape[place])
        for name, array in feeds.items()
        for place, axis in enumerate(axes[name])
        if isinstance(axis, str)
    ]
    sizes = dict(places)
    listed = {axis: shapes[axis] for axis in sizes if axis in shapes}
    too_long = any(sizes[axis] > steps[-1] for axis, steps in listed.items())
    if not sizes.keys() <= set(_OUTPUT) or too_long:
        return feeds, _WHOLE, False
    goals = {
        axis: next(step for step in steps if step >= sizes[axis]) for axis, steps in listed.items()
    }
    padded = {name: _padded(array, axes[name], goals) for name, array in feeds.items()}
    batch, tokens = (slice(sizes.get(axis)) for axis in _OUTPUT)
    return padded, (batch, tokens), sizes.keys() == listed.keys()


def _padded(array: np.ndarray, names: list[Any], goals: Mapping[str, int]) -> np.ndarray:
    for place, axis in enumerate(names):
        missing = goals.get(axis, 0) - array.shape[place]
        if missing <= 0:
            continue
        if axis == "batch":
            rows = np.repeat(np.take(array, [0], axis=place), missing, axis=place)
            array = np.concatenate([array, rows], axis=place)
        else:
            array = np.pad(array, [(0, missing * (at == place)) for at in range(array.ndim)])
    return array
