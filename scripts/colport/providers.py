"""Execution providers: one entry each, and whether this machine has one.

A new provider is one entry in :data:`PROVIDERS` and its name in the config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from colport.errors import ConfigError, UnsupportedError


@dataclass(frozen=True)
class Provider:
    """One way to run a graph.

    Attributes:
        name: Name in config and tables.
        execution_provider: ONNX Runtime's name.
        requirement: Package that brings it.
        torch_device: Where PyTorch runs to be compared with it.
        options: Default provider options.
    """

    name: str
    execution_provider: str
    requirement: str
    torch_device: str
    options: Mapping[str, Any]


PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider("cpu", "CPUExecutionProvider", "onnxruntime", "cpu", {}),
        Provider("cuda", "CUDAExecutionProvider", "onnxruntime-gpu", "cuda", {}),
        Provider(
            "tensorrt", "TensorrtExecutionProvider", "onnxruntime-gpu and TensorRT", "cuda", {}
        ),
        Provider("openvino", "OpenVINOExecutionProvider", "onnxruntime-openvino", "cpu", {}),
    )
}


def get(name: str) -> Provider:
    """The provider of that name.

    Raises:
        ConfigError: There is no such provider.
    """
    if name not in PROVIDERS:
        raise ConfigError(f"provider: {name!r} is unknown; allowed are {', '.join(PROVIDERS)}.")
    return PROVIDERS[name]


def require(name: str) -> Provider:
    """The provider, if the installed ONNX Runtime has it.

    Raises:
        UnsupportedError: This installation of ONNX Runtime was built without it.
    """
    import onnxruntime

    provider = get(name)
    available = onnxruntime.get_available_providers()
    if provider.execution_provider not in available:
        raise UnsupportedError(
            f"{provider.execution_provider} is not in this onnxruntime "
            f"{onnxruntime.__version__}; it comes with {provider.requirement}."
        )
    return provider
