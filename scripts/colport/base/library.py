"""ONNX Runtime from whichever of its packages is installed, or one sentence on what is wrong.

There is a package for each kind of device (``onnxruntime``, ``onnxruntime-gpu``, …). All of them
write the folder ``onnxruntime``: a second one overwrites files of the first, and the removal of
one removes files of the other. Modules import ``onnxruntime`` from here.
"""

from __future__ import annotations

import sys
import warnings
from importlib import metadata

from colport.base.errors import LibraryError
from colport.base.redaction import plain

_BRINGS = "pip install 'colport[cpu]' brings it, or [gpu], [openvino], [directml], [migraphx]"

_found: dict[object, set[str]] = {}  # by place; Python imports from the first one
for _package in metadata.distributions():
    if "onnxruntime" in (_package.read_text("top_level.txt") or "").split():
        _found.setdefault(_package.locate_file("onnxruntime"), set()).add(_package.name)
_names = sorted(next(iter(_found.values()), ()))
_again = f"run pip uninstall -y {' '.join(_names)}, then install the one that this machine needs"
try:
    import onnxruntime

    onnxruntime.InferenceSession  # noqa: B018 - what is left of a removed package has none
except (ImportError, AttributeError) as error:
    raise LibraryError(
        f"{sys.executable} cannot import onnxruntime ({plain(error)}); "
        f"{_again if _names else _BRINGS}."
    ) from error
if len(_names) > 1:
    warnings.warn(
        f"{' and '.join(_names)} are installed and overwrite each other's files; {_again}.",
        stacklevel=2,
    )
