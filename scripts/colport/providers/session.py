"""A session on a provider, or why this machine has none: never another provider in its place."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from colport.base.errors import ArtifactError, UnsupportedError
from colport.base.machine import asked_threads
from colport.base.redaction import plain
from colport.providers.settings import ProviderSettings
from colport.providers.table import PROVIDERS, Provider

_DAMAGED = ("INVALID_PROTOBUF", "NO_SUCHFILE", "NO_MODEL", "INVALID_GRAPH")
_CONSOLE = re.compile(r"\x1b\[[0-9;]*m")
_PLACES = re.compile(r"^.*?(?:Get\(\)|operator\(\)\]?|\w+\.(?:cc|cpp):\d+ [^\[]*)\s*")
_CAUSES = (
    r"Failed to load library .*?([^/\s]+) with error: (.+)",
    r"(OpenVINO does not support the following ONNX operations: .+)",
    r"(CUDA failure .+)",
    r"(CUDA error .+)",
    r"(Cannot get length of dynamic dimension)",
    r"(While validating ONNX node .+)",
    r"(Please install .+)",
    r"(Failed to create .+)",
)
"""What ORT's log says of the cause, the most telling first."""
_LONGEST = 300

_EXACT_SUMS = ("session.x64quantprecision", "1")
"""Where products of unsigned with signed bytes saturate, the weights become unsigned, too."""


def require(name: str) -> None:
    """Check that the installed ONNX Runtime was built with a provider, by its type.

    Raises:
        UnsupportedError: It was not.
    """
    from colport.base.library import onnxruntime

    provider = PROVIDERS[name]
    if provider.execution_provider not in onnxruntime.get_available_providers():
        raise UnsupportedError(
            f"{provider.execution_provider} is not in this onnxruntime "
            f"{onnxruntime.__version__}; it comes with {provider.requirement}."
        )


def require_opset(provider: Provider, opset: int) -> None:
    """Check that a provider reads a graph's operator set.

    Raises:
        UnsupportedError: It reads older ones only.
    """
    if provider.opset is not None and opset > provider.opset:
        raise UnsupportedError(
            f"{provider.execution_provider} reads operator sets up to {provider.opset}, this graph "
            f"has {opset}; declare a variant with `opset: 21`."
        )


def open_session(
    model: Path | str | bytes,
    settings: ProviderSettings,
    threads: int | None = None,
    share_weights: bool = False,
    profile: str | None = None,
    exact_sums: bool = False,
    order: Any = None,
) -> Any:
    """A session of a graph that runs on the provider, in part at least.

    Args:
        model: An ONNX file, or a serialised model.
        settings: The provider.
        threads: Threads within an operator; goes before the provider's own.
        share_weights: See :class:`colport.runtime.encoder.Encoder`.
        profile: Prefix of a profile's file name; ``None`` makes none.
        exact_sums: Whether integer products avoid the kernels that saturate, see
            :mod:`colport.providers.integers`.
        order: An ``ExecutionOrder`` of ONNX Runtime's; its default for ``None``.

    Raises:
        ArtifactError: ONNX Runtime cannot read the file.
        UnsupportedError: The provider is not on this machine, or does not take the graph.
    """
    from colport.base.library import onnxruntime

    provider, threads = settings.provider, threads or settings.threads or asked_threads()
    require(provider.name)
    options = _session_options(settings, threads, share_weights)
    if exact_sums:
        options.add_session_config_entry(*_EXACT_SUMS)
    if order is not None:
        options.execution_order = order
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    name = "the model" if isinstance(model, bytes) else str(model)
    with _logged(provider) as log:
        try:
            if provider.memory == "cuda" and hasattr(onnxruntime, "preload_dlls"):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    onnxruntime.preload_dlls()  # those of PyTorch's packages, without its import
            session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model),
                options,
                providers=settings.chain(threads),
                # Without this, ONNX Runtime starts again on the CPU after some errors.
                enable_fallback=0,
            )
        except Exception as error:  # onnxruntime's classes share no public base
            raise _refusal(settings, name, error, log()) from error
        if provider.execution_provider not in session.get_providers():
            raise UnsupportedError(
                f"{provider.execution_provider} is in this onnxruntime {onnxruntime.__version__}, "
                f"but does not start on this machine ({_cause(log())})."
            )
    return session


def _session_options(settings: ProviderSettings, threads: int | None, share_weights: bool) -> Any:
    from colport.base.library import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Idle session threads would spin against the preprocessing of the next batch.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if share_weights:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if not settings.fallback:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if threads:
        options.intra_op_num_threads = threads
    if settings.inter_op_threads:
        options.inter_op_num_threads = settings.inter_op_threads
        if settings.inter_op_threads > 1:
            options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = settings.arena
    return options


def _refusal(settings: ProviderSettings, name: str, error: Exception, log: str) -> Exception:
    provider = settings.provider
    first, text = plain(error), str(error)
    if "NOT_IMPLEMENTED" in first:
        return UnsupportedError(
            f"{provider.execution_provider} has no kernel for an operator of {Path(name).name} at "
            f"its precision ({first})."
        )
    if "com.microsoft:" in first and "is not a registered function/op" in first:
        return UnsupportedError(
            f"this onnxruntime knows no such operator as {Path(name).name} has ({first}); declare "
            "a variant with `opset: 21`."
        )
    if not settings.fallback and "fallback to CPU EP has been explicitly disabled" in text:
        # Also what ONNX Runtime says where the provider did not start at all.
        cause = _cause(log) if "Failed to create" in log else "nodes of it are left to the CPU"
        return UnsupportedError(
            f"{provider.execution_provider} does not run all of {Path(name).name} ({cause}), and "
            "fallback is forbidden."
        )
    if provider.name == "cpu" or any(f": {code} :" in first for code in _DAMAGED):
        return ArtifactError(f"{name}: ONNX Runtime cannot load it ({first}).")
    return UnsupportedError(
        f"{provider.execution_provider} cannot run {Path(name).name} ({_cause(log, text)})."
    )


def _cause(*texts: str) -> str:
    """The line of ONNX Runtime's messages that a user can act on."""
    lines = [line for text in texts for line in _CONSOLE.sub("", text).splitlines() if line.strip()]
    for pattern in _CAUSES:
        for line in lines:
            if found := re.search(pattern, line):
                return ": ".join(found.groups())[:_LONGEST].strip()
    return _PLACES.sub("", lines[0])[:_LONGEST].strip() if lines else "no cause was given"


@contextmanager
def _logged(provider: Provider) -> Iterator[Callable[[], str]]:
    """What ONNX Runtime writes to standard error meanwhile, where it alone tells the cause.

    Its log has no other door in Python. Nothing is shown: the cause becomes part of an error.
    """
    if provider.name == "cpu":
        yield lambda: ""
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        size = 1 << 20  # without moving the place in the file, at which ONNX Runtime goes on
        try:
            yield lambda: os.pread(file.fileno(), size, 0).decode("utf-8", errors="replace")
        finally:
            os.dup2(kept, 2)
            os.close(kept)
