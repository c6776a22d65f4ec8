"""Work done by another environment's Python: a provider whose ONNX Runtime excludes this one's.

The other Python needs the encoder's own packages, as ``envs/openvino.txt`` pins them, and finds
this library by its path. It answers over a pipe of its own, ends with this process, and is never
used for timing: a latency worker runs in it directly.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from colport.errors import ColPortError, UnsupportedError
from colport.families.base import Document, Embedder
from colport.providers import ProviderSettings

_LIBRARY = Path(__file__).resolve().parents[1]


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
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [str(path), "-P", "-m", "colport.remote", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_file(sys.stderr) else subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(_LIBRARY)},
            )
        try:
            self._pipe.recv()
        except EOFError:
            self.close()
            raise UnsupportedError(
                f"python {python} of the provider cannot load this library; it needs the packages "
                "of envs/openvino.in (docs/providers.md)."
            ) from None

    def call(self, function: str, *arguments: Any, **settings: Any) -> Any:
        """The result of ``package.module:function``.

        Raises:
            ColPortError: The function raised it, with its own class.
            RuntimeError: The function raised anything else, or the process ended.
        """
        return self._ask("call", function, arguments, settings)

    def make(self, factory: str, *arguments: Any, **settings: Any) -> None:
        """Make the object whose methods :meth:`method` calls."""
        self._ask("make", factory, arguments, settings)

    def method(self, name: str, *arguments: Any, **settings: Any) -> Any:
        """The result of a method of the object; see :meth:`call` for errors."""
        return self._ask("method", name, arguments, settings)

    def close(self) -> None:
        """Let the process end; safe to call twice."""
        self._pipe.close()
        self._process.wait()

    def __enter__(self) -> Interpreter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()

    def _ask(self, *request: Any) -> Any:
        try:
            self._pipe.send(request)
            succeeded, result = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            code = self._process.wait()
            raise RuntimeError(f"{self._python} ended with code {code} on {request[1]}.") from None
        if not succeeded:
            raise result
        return result


class RemoteEncoder:
    """:class:`colport.encoder.Encoder` in another Python."""

    def __init__(
        self, folder: Path | str, entry: Mapping[str, Any], python: str, threads: int | None = None
    ) -> None:
        from colport import manifest

        self.folder = Path(folder)
        self.manifest = manifest.read(self.folder)
        self._interpreter = Interpreter(python)
        self._interpreter.make("colport.encoder:Encoder", str(folder), entry, threads)
        self.document_type = self._interpreter.method("document_type")

    @property
    def dim(self) -> int:
        """Size of a token embedding."""
        return self.manifest.dim

    def encode_queries(self, queries: Sequence[str], batch_size: int = 8) -> list[np.ndarray]:
        """See :meth:`colport.encoder.Encoder.encode_queries`."""
        return self._interpreter.method("encode_queries", list(queries), batch_size)

    def encode_documents(
        self, documents: Sequence[Document], batch_size: int = 8
    ) -> list[np.ndarray]:
        """See :meth:`colport.encoder.Encoder.encode_documents`."""
        return self._interpreter.method("encode_documents", list(documents), batch_size)


def open_encoder(
    folder: Path | str, entry: str | Mapping[str, Any], threads: int | None = None
) -> Embedder:
    """An encoder on a provider, in the Python that its entry names.

    Args:
        folder: An exported folder.
        entry: A provider's type, or an entry of the config's ``providers`` with its ``type``.
        threads: See :class:`colport.encoder.Encoder`.
    """
    from colport.encoder import Encoder  # here: not every worker that imports this encodes

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
    with Interpreter(python) as interpreter:
        return interpreter.call(function, *arguments, **settings)


def serve(pipe: Connection) -> None:
    """Answer requests until the other side is closed."""
    made: Any = None
    pipe.send("ready")
    while True:
        try:
            kind, name, arguments, settings = pipe.recv()
        except EOFError:
            return
        try:
            if kind == "method":
                found = getattr(made, name)
                result = found(*arguments, **settings) if callable(found) else found
            else:
                result = _named(name)(*arguments, **settings)
            if kind == "make":
                made, result = result, None
            reply = (True, result)
        except ColPortError as error:
            reply = (False, error)
        except Exception as error:  # noqa: BLE001 - its class may not exist on the other side
            reply = (False, RuntimeError(f"{type(error).__name__}: {error}"))
        pipe.send(reply)


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _has_file(stream: Any) -> bool:
    try:
        return stream.fileno() >= 0
    except (AttributeError, OSError):
        return False


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
