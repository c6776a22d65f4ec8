"""Parameters that stay in a checkpoint's files: read when an operator takes one, then let go.

Beside its activations, a model of these needs the memory of one operator's weights, whatever its
size; every operator gets the values that it would have got from a model in memory.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_map_only

from colport.tensors.weights import StoredTensor

_BLOCK_BYTES = 2**24  # cast at a time; the allocator would map larger ones anew for each

_ASKING = {
    *(torch.Tensor.size, torch.Tensor.dim, torch.Tensor.numel, torch.Tensor.__len__),
    *(torch.Tensor.is_floating_point, torch.Tensor.is_complex, torch.is_floating_point),
    torch._has_compatible_shallow_copy_type,  # which Module.to asks
}
"""Answered from dtype, device and shape."""

_CONVERTING = {
    *(torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda, torch.Tensor.float),
    *(torch.Tensor.half, torch.Tensor.bfloat16, torch.Tensor.detach, torch.Tensor.requires_grad_),
}
"""Change dtype or device at most: the values are read in that form later."""

# Of the names in `__i`, those of `__index__`, `__int__`, `__invert__` and `__iter__` do not.
_CHANGING = re.compile("__setitem__|__i(?!n|ter).*__|(?!__).*_")
"""Names of methods that work in place; torch calls ``/=`` ``__idiv__``."""


class StoredParameter(torch.Tensor):
    """A parameter whose values lie in a checkpoint.

    To modules it is a parameter with a dtype, a device and a shape; a single NaN stands for its
    values. A function that needs them gets them, read for that call.
    """

    @classmethod
    def of(
        cls, stored: StoredTensor, dtype: torch.dtype, device: torch.device | str
    ) -> StoredParameter:
        """A stored tensor as a parameter of a model that computes in ``dtype`` on ``device``."""
        parameter = _absent(stored.shape, dtype, device).as_subclass(cls)
        parameter._stored = stored
        parameter._is_param = True  # by which torch.nn.Parameter knows subclasses of tensors
        return parameter

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        """Run a function of torch on the values, unless it asks for the form or changes it."""
        keywords, first, name = keywords or {}, next(iter(arguments), None), function.__name__
        if function in _ASKING or name in ("__get__", "__set__"):
            with torch._C.DisableTorchFunctionSubclass():
                answer = function(*arguments, **keywords)
            if not isinstance(answer, torch.Tensor):  # which `T` and `data` give
                return answer
        elif function is torch.nn.functional.embedding and keywords.get("max_norm") is None:
            ids, table = arguments
            if isinstance(table, StoredParameter):
                return table.rows(ids)
        elif isinstance(first, StoredParameter) and function in _CONVERTING:
            form = torch.empty((), dtype=first.dtype, device=first.device)
            form = function(form, *arguments[1:], **keywords)
            return StoredParameter.of(first._stored, form.dtype, form.device)
        elif isinstance(first, StoredParameter) and _CHANGING.fullmatch(name):
            raise RuntimeError(f"{first._stored.key}: {name} would change a stored weight.")
        arguments, keywords = tree_map_only(StoredParameter, cls.read, (arguments, keywords))
        return function(*arguments, **keywords)

    def read(self) -> torch.Tensor:
        """All values, in the parameter's dtype on its device.

        Raises:
            CheckpointError: A file cannot be read.
        """
        values = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        if not self.dim():
            return values.copy_(_as_torch(self._stored.read()))
        self._copy_rows(0, values)
        return values

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows by index, ``[*ids, width]``: only those are read.

        Raises:
            IndexError: There is no such row.
            CheckpointError: A file cannot be read.
        """
        places, inverse = torch.unique(ids, return_inverse=True)
        numbers = places.cpu().numpy()
        if numbers.size and not 0 <= numbers[0] <= numbers[-1] < len(self):
            raise IndexError("index out of range in self")  # as torch says it
        shape = (len(numbers), *self.shape[1:])
        table = torch.empty(shape, dtype=self.dtype, device=self.device)
        done = 0
        for run in np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1):
            if run.size:
                self._copy_rows(int(run[0]), table[done : done + run.size])
                done += run.size
        return torch.nn.functional.embedding(inverse, table)

    def _copy_rows(self, start: int, values: torch.Tensor) -> None:
        """Fill ``values`` with the rows from ``start`` on."""
        step = max(1, _BLOCK_BYTES * len(self) // max(1, self._stored.nbytes))
        for first in range(0, len(values), step):
            block = values[first : first + step]
            read = self._stored.read_rows(start + first, start + first + len(block))
            block.copy_(_as_torch(read))


def fill(
    model: torch.nn.Module,
    tensors: Mapping[str, StoredTensor],
    constants: Mapping[str, torch.Tensor],
) -> None:
    """Give a model on the meta device its parameters where they lie, and its buffers' values.

    Biases and the like, of one axis, are read at once. What no output depends on has no source:
    it is NaN.

    Args:
        model: Changed in place; it is on the CPU then.
        tensors: Parameter name to its tensor in the checkpoint.
        constants: Values of buffers that the checkpoint does not store.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, form in {**parameters, **dict(model.named_buffers(remove_duplicate=False))}.items():
        values = None if name in parameters else constants.get(name)
        if name in parameters and name not in tensors:
            values = _absent(form.shape, form.dtype, "cpu")
        elif values is None:
            values = StoredParameter.of(tensors[name], form.dtype, "cpu")
            if name not in parameters or form.dim() < 2:
                values = values.read()
        if name in parameters and not isinstance(values, StoredParameter):
            values = torch.nn.Parameter(values, requires_grad=False)
        owner, _, key = name.rpartition(".")
        setattr(model.get_submodule(owner), key, values)


def _absent(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    """A tensor of NaN that takes the memory of a single one."""
    return torch.full((), torch.nan, dtype=dtype, device=device).expand(shape)


def _as_torch(values: np.ndarray) -> torch.Tensor:
    """The same values without a copy; NumPy's bfloat16 is not torch's."""
    if values.dtype.name == "bfloat16":
        return torch.from_numpy(values.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(values)
