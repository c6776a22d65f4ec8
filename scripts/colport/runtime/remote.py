"""Work done by another environment's Python: a provider whose ONNX Runtime excludes this one's.

The other Python needs the encoder's own packages, as ``envs/openvino.txt`` pins them, and finds
this library by its path. It answers over a pipe of its own, ends with this process, and is never
used for timing: a latency worker runs in it directly.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from colport.base import errors
from colport.base.errors import ColPortError, InputError, UnsupportedError
from colport.base.names import PLURALS
from colport.families import inputs
from colport.families.base import Embedder
from colport.processes.child import Child, ChildError
from colport.processes.wire import serve
from colport.providers import ProviderSettings


class Interpreter:
    """A process of another Python that runs functions of this library.

    Args:
        python: The interpreter, absolute or relative to the working directory.

    Raises:
        UnsupportedError: It is not there, or cannot load this library.
    """

    def __init__(self, python: str) -> None:
        path = Path(python).absolute()
        if not path.is_file():
            raise UnsupportedError(
                f"python {python} of the provider is not there; docs/providers.md says how its "
                "environment is made."
            )
        self._python = python
        try:
            self._child = Child.of("colport.runtime.remote", python=path)
            self._child.ask({"do": "begin"})
        except (ChildError, OSError) as error:
            raise UnsupportedError(
                f"python {python} of the provider cannot load this library ({error}); it needs the "
                "packages of envs/openvino.in (docs/providers.md)."
            ) from None

    def ask(self, do: str, name: str, /, *arguments: Any, **settings: Any) -> Any:
        """What comes of doing something there.

        Args:
            do: ``call`` for the result of ``package.module:function``, ``make`` to keep it there,
                ``method`` for the result of a method of what was made, or for an attribute of it.
            name: Of the function or of the method.
            *arguments: What it is called with.
            **settings: The same.

        Raises:
            ColPortError: The function raised it, with its own class.
            RuntimeError: The function raised anything else, or the process ended.
        """
        request = {"do": do, "name": name, "arguments": arguments, "settings": settings}
        try:
            answer = self._child.ask(request)
        except ChildError as ended:
            raise RuntimeError(f"{self._python} on {name}: {ended}") from None
        if "refused" in answer:
            raise InputError(*answer["refused"])
        if "error" in answer:
            raise getattr(errors, answer["error"], RuntimeError)(answer["reason"])
        return answer["result"]

    def close(self) -> None:
        """Let the process end; safe to call twice."""
        self._child.close()


class RemoteEncoder(Embedder):
    """:class:`colport.runtime.encoder.Encoder` in another Python."""

    def __init__(
        self, folder: Path | str, entry: Mapping[str, Any], python: str, threads: int | None = None
    ) -> None:
        from colport.folder import manifest

        self.folder = Path(folder)
        self.manifest = manifest.read(self.folder)
        self.dim = self.manifest.dim
        self._interpreter = Interpreter(python)
        made = "colport.runtime.encoder:Encoder"
        self._interpreter.ask("make", made, str(folder), entry, threads)
        self.document_type = self._interpreter.ask("method", "document_type")

    def _encode(self, given: Any, kind: str, batch_size: int) -> list[np.ndarray]:
        # Checked here: pages travel as pixels, without palette or EXIF, and errors as texts.
        argument, batch_size = PLURALS[kind], inputs.whole("batch_size", batch_size)
        read = "passages" if kind == "query" else self.document_type
        taken = [
            item
            for first, chosen in inputs.windows(argument, given, batch_size)
            for item in inputs.checked(argument, chosen, read, range(first, first + len(chosen)))
        ]
        return self._interpreter.ask("method", f"encode_{argument}", taken, batch_size)


def open_encoder(
    folder: Path | str, entry: str | Mapping[str, Any], threads: int | None = None
) -> Embedder:
    """An encoder on a provider, in the Python that its entry names.

    Args:
        folder: An exported folder.
        entry: A provider's type, or an entry of the config's ``providers`` with its ``type``.
        threads: See :class:`colport.runtime.encoder.Encoder`.
    """
    from colport.runtime.encoder import Encoder  # here: not every worker that imports this encodes

    settings = ProviderSettings.of(entry)
    if settings.python is None:
        return Encoder(folder, entry, threads)
    return RemoteEncoder(folder, without_python(entry), settings.python, threads)


def without_python(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry as the other Python itself reads it."""
    return {key: value for key, value in entry.items() if key != "python"}


def run_in(python: str | None, function: str, *arguments: Any, **settings: Any) -> Any:
    """The result of ``package.module:function`` in another Python, or in this one for ``None``."""
    if python is None:
        return _named(function)(*arguments, **settings)
    with closing(Interpreter(python)) as interpreter:
        return interpreter.ask("call", function, *arguments, **settings)


class _Server:
    """The other side of an :class:`Interpreter`: does what it asks."""

    def __init__(self) -> None:
        self._made: Any = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The result of one request, or the class and text of what it raised."""
        if request["do"] == "begin":
            return {"result": None}
        name, arguments, settings = request["name"], request["arguments"], request["settings"]
        try:
            if request["do"] == "make":
                self._made = _named(name)(*arguments, **settings)
                return {"result": None}
            found = getattr(self._made, name) if request["do"] == "method" else _named(name)
            return {"result": found(*arguments, **settings) if callable(found) else found}
        except InputError as error:
            return {"refused": [error.argument, error.index, error.reason]}
        except ColPortError as error:
            return {"error": type(error).__name__, "reason": str(error)}
        except Exception as error:  # noqa: BLE001 - its class may not exist on the other side
            return {"error": "RuntimeError", "reason": f"{type(error).__name__}: {error}"}


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    serve(_Server().answer)
