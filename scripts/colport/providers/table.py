"""One entry a provider: ONNX Runtime's name for it, where it comes from, what it takes.

Names of options are those that the libraries of onnxruntime 1.31.1 (CUDA, TensorRT, Core ML),
onnxruntime-openvino 1.24.1 and onnxruntime-directml 1.24.4 contain; those of ROCm and MIGraphX are
ONNX Runtime's documented ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from colport.base.foreign import local

MOST_THREADS = 1024
"""Of a session; ONNX Runtime starts as many as it is told, and hangs or dies on absurd numbers."""

Kind = type | range | tuple[str, ...]
"""What a value may be: ``bool``, ``int`` (from 0 up), a range, ``str``, or one of these texts."""


@dataclass(frozen=True)
class Key:
    """A key of ours that becomes options of the provider.

    Attributes:
        kind: What its value may be.
        options: ONNX Runtime's options for a value.
    """

    kind: Kind
    options: Callable[[Any], Mapping[str, Any]]


@dataclass(frozen=True)
class Provider:
    """One way to run a graph.

    Attributes:
        name: Its type in the config.
        execution_provider: ONNX Runtime's name.
        requirement: Package that brings it.
        torch_device: Where PyTorch runs to be compared with it.
        keys: Keys of ours beside those that every provider takes.
        options: ONNX Runtime's own options and their kinds.
        defaults: Options unless the config says otherwise.
        memory: Device name of its memory for I/O binding; ``cpu`` where it shares the host's.
        behind: Provider that takes the nodes it leaves, before the CPU.
        opset: Newest operator set that it reads.
        booleans: How it reads false and true.
        exact_sums: Whether integer products of the full range are exact with it on every processor:
            it has such kernels, or leaves those products to the CPU's.
        is_concurrent: Whether ONNX Runtime runs several calls of one session at a time on it.
    """

    name: str
    execution_provider: str
    requirement: str
    torch_device: str = "cpu"
    keys: Mapping[str, Key] = field(default_factory=dict)
    options: Mapping[str, Kind] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    memory: str = "cpu"
    behind: str | None = None
    opset: int | None = None
    booleans: tuple[str, str] = ("False", "True")
    exact_sums: bool = False
    is_concurrent: bool = True


def _named(name: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {name: value}


def _folder(name: str) -> Callable[[str], dict[str, Any]]:
    return lambda path: {name: str(local(path))}


def _bytes(name: str) -> Callable[[int], dict[str, Any]]:
    return lambda megabytes: {name: megabytes * 2**20}


_ARENA = ("kNextPowerOfTwo", "kSameAsRequested")
_TUNABLE: dict[str, Kind] = {
    "tunable_op_enable": bool,
    "tunable_op_tuning_enable": bool,
    "tunable_op_max_tuning_duration_ms": int,
}
_DEVICE = Key(int, _named("device_id"))

_CUDA: dict[str, Kind] = {
    "device_id": int,
    "gpu_mem_limit": int,
    "arena_extend_strategy": _ARENA,
    "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    "cudnn_conv_use_max_workspace": bool,
    "cudnn_conv1d_pad_to_nc1d": bool,
    "do_copy_in_default_stream": bool,
    "enable_cuda_graph": bool,
    "enable_skip_layer_norm_strict_mode": bool,
    "fuse_conv_bias": bool,
    "prefer_nhwc": bool,
    "sdpa_kernel": int,
    "use_ep_level_unified_stream": bool,
    "use_tf32": bool,
    **_TUNABLE,
}

_TENSORRT: dict[str, Kind] = {
    "device_id": int,
    "op_types_to_exclude": str,
    "trt_auxiliary_streams": int,
    "trt_bf16_enable": bool,
    "trt_build_heuristics_enable": bool,
    "trt_builder_optimization_level": int,
    "trt_context_memory_sharing_enable": bool,
    "trt_cuda_graph_enable": bool,
    "trt_detailed_build_log": bool,
    "trt_dla_core": int,
    "trt_dla_enable": bool,
    "trt_dump_subgraphs": bool,
    "trt_engine_cache_enable": bool,
    "trt_engine_cache_path": str,
    "trt_engine_cache_prefix": str,
    "trt_engine_hw_compatible": bool,
    "trt_force_sequential_engine_build": bool,
    "trt_force_timing_cache": bool,
    "trt_fp16_enable": bool,
    "trt_int8_calibration_table_name": str,
    "trt_int8_enable": bool,
    "trt_int8_use_native_calibration_table": bool,
    "trt_layer_norm_fp32_fallback": bool,
    "trt_max_partition_iterations": int,
    "trt_max_workspace_size": int,
    "trt_min_subgraph_size": int,
    "trt_op_types_to_exclude": str,
    "trt_profile_max_shapes": str,
    "trt_profile_min_shapes": str,
    "trt_profile_opt_shapes": str,
    "trt_sparsity_enable": bool,
    "trt_tactic_sources": str,
    "trt_timing_cache_enable": bool,
    "trt_timing_cache_path": str,
    "trt_weight_stripped_engine_enable": bool,
}

_COREML_UNITS = {
    "all": "ALL",
    "cpu": "CPUOnly",
    "cpu-gpu": "CPUAndGPU",
    "cpu-neural-engine": "CPUAndNeuralEngine",
}


def _tensorrt_cache(folder: str) -> dict[str, Any]:
    return {
        "trt_engine_cache_enable": True,
        "trt_timing_cache_enable": True,
        **_folder("trt_engine_cache_path")(folder),
        **_folder("trt_timing_cache_path")(folder),
    }


def _tensorrt_precision(precision: str) -> dict[str, Any]:
    """A float graph's products may run in this type; a graph already in it needs none."""
    return {"trt_fp16_enable": precision == "fp16", "trt_bf16_enable": precision == "bf16"}


PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider("cpu", "CPUExecutionProvider", "onnxruntime", exact_sums=True),
        Provider(
            "cuda",
            "CUDAExecutionProvider",
            "onnxruntime-gpu (envs/gpu.txt)",
            torch_device="cuda",
            keys={
                "device": _DEVICE,
                "memory_limit_mb": Key(int, _bytes("gpu_mem_limit")),
                "tf32": Key(bool, _named("use_tf32")),
                "cuda_graph": Key(bool, _named("enable_cuda_graph")),
            },
            options=_CUDA,
            # PyTorch, too, computes fp32 products without TF32 by default.
            defaults={"use_tf32": False},
            memory="cuda",
            exact_sums=True,
        ),
        Provider(
            "tensorrt",
            "TensorrtExecutionProvider",
            "onnxruntime-gpu (envs/gpu.txt) and the TensorRT libraries",
            torch_device="cuda",
            keys={
                "device": _DEVICE,
                "memory_limit_mb": Key(int, _bytes("trt_max_workspace_size")),
                "cuda_graph": Key(bool, _named("trt_cuda_graph_enable")),
                "engine_cache": Key(str, _tensorrt_cache),
                "precision": Key(("fp32", "fp16", "bf16"), _tensorrt_precision),
            },
            options=_TENSORRT,
            memory="cuda",
            behind="cuda",
        ),
        Provider(
            "openvino",
            "OpenVINOExecutionProvider",
            "onnxruntime-openvino (envs/openvino.txt)",
            keys={
                "device": Key(str, _named("device_type")),
                "engine_cache": Key(str, _folder("cache_dir")),
                "precision": Key(
                    ("fp32", "fp16", "accuracy"), lambda value: {"precision": value.upper()}
                ),
            },
            options={
                "device_type": str,
                "precision": ("FP32", "FP16", "ACCURACY"),
                "num_of_threads": int,
                "num_streams": int,
                "cache_dir": str,
                "load_config": str,
                "enable_opencl_throttling": bool,
                "enable_qdq_optimizer": bool,
                "disable_dynamic_shapes": bool,
                "enable_causallm": bool,
                "model_priority": ("LOW", "MEDIUM", "HIGH", "DEFAULT"),
                "reshape_input": str,
                "layout": str,
            },
            defaults={"device_type": "CPU"},
            opset=22,
        ),
        Provider(
            "directml",
            "DmlExecutionProvider",
            "onnxruntime-directml (envs/directml.txt, Windows)",
            keys={"device": _DEVICE},
            options={
                "device_id": int,
                "performance_preference": ("default", "high_performance", "minimum_power"),
                "device_filter": ("gpu", "npu", "any"),
                "disable_metacommands": bool,
            },
            memory="dml",
            booleans=("false", "true"),
            is_concurrent=False,
        ),
        Provider(
            "coreml",
            "CoreMLExecutionProvider",
            "onnxruntime (macOS)",
            keys={
                "device": Key(
                    tuple(_COREML_UNITS), lambda value: {"MLComputeUnits": _COREML_UNITS[value]}
                ),
                "engine_cache": Key(str, _folder("ModelCacheDirectory")),
            },
            options={
                "ModelFormat": ("MLProgram", "NeuralNetwork"),
                "MLComputeUnits": tuple(_COREML_UNITS.values()),
                "RequireStaticInputShapes": bool,
                "EnableOnSubgraphs": bool,
                "SpecializationStrategy": ("Default", "FastPrediction"),
                "ProfileComputePlan": bool,
                "AllowLowPrecisionAccumulationOnGPU": bool,
                "ModelCacheDirectory": str,
            },
            defaults={"ModelFormat": "MLProgram"},
            booleans=("0", "1"),
        ),
        Provider(
            "rocm",
            "ROCMExecutionProvider",
            "onnxruntime-rocm up to 1.22; MIGraphX took its place",
            torch_device="cuda",  # PyTorch's name for AMD's devices, too
            keys={"device": _DEVICE, "memory_limit_mb": Key(int, _bytes("gpu_mem_limit"))},
            options={
                "device_id": int,
                "gpu_mem_limit": int,
                "arena_extend_strategy": _ARENA,
                "do_copy_in_default_stream": bool,
                "miopen_conv_exhaustive_search": bool,
                "miopen_conv_use_max_workspace": bool,
                "enable_hip_graph": bool,
                **_TUNABLE,
            },
            memory="cuda",
            opset=21,
        ),
        Provider(
            "migraphx",
            "MIGraphXExecutionProvider",
            "onnxruntime-migraphx (envs/migraphx.txt)",
            torch_device="cuda",
            keys={
                "device": _DEVICE,
                "memory_limit_mb": Key(int, _bytes("migraphx_mem_limit")),
                "engine_cache": Key(str, _folder("migraphx_model_cache_dir")),
                "precision": Key(
                    ("fp32", "fp16", "bf16"),
                    lambda value: {
                        "migraphx_fp16_enable": value == "fp16",
                        "migraphx_bf16_enable": value == "bf16",
                    },
                ),
            },
            options={
                "device_id": int,
                "migraphx_fp16_enable": bool,
                "migraphx_bf16_enable": bool,
                "migraphx_fp8_enable": bool,
                "migraphx_int8_enable": bool,
                "migraphx_int8_calibration_table_name": str,
                "migraphx_int8_use_native_calibration_table": bool,
                "migraphx_model_cache_dir": str,
                "migraphx_exhaustive_tune": bool,
                "migraphx_mem_limit": int,
                "migraphx_arena_extend_strategy": _ARENA,
            },
            memory="cuda",
        ),
    )
}


def fits(kind: Kind, value: Any) -> bool:
    """Whether a value is of a kind."""
    if isinstance(kind, tuple):
        return value in kind
    if kind is int or isinstance(kind, range):
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and value in (range(2**63) if kind is int else kind)
    return isinstance(value, kind) and value != ""


def describe(kind: Kind) -> str:
    """What a kind allows, for a message."""
    if isinstance(kind, tuple):
        return f"one of {', '.join(kind)}"
    if isinstance(kind, range):
        return f"a whole number from {kind.start} to {kind.stop - 1}"
    return {bool: "true or false", int: "a whole number from 0 up", str: "a text"}[kind]
