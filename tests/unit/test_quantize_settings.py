"""What a variant's ``quantization`` section means: forms, and what needs inputs."""

import pytest

from colport.base.errors import ConfigError
from colport.quantize.settings import Calibration, QuantizeSettings, Sensitivity


@pytest.mark.parametrize(
    ("given", "forms"),
    [
        ({}, ("per_token",)),
        ({"activations": "per_token"}, ("per_token",)),
        ({"activations": "per_tensor"}, ("per_tensor", "per_token")),
        ({"method": "static"}, ("static", "per_token")),
        ({"method": "weight_only"}, ("int8_blocks",)),
        ({"method": "weight_only", "bits": 4}, ("int4_blocks", "int8_blocks")),
    ],
)
def test_forms_are_listed_from_the_cheapest(given, forms):
    assert QuantizeSettings(**given).forms == forms


@pytest.mark.parametrize(
    ("given", "calibrated"),
    [
        ({}, False),
        ({"method": "weight_only"}, False),
        ({"activations": "per_tensor"}, False),
        ({"method": "static"}, True),
        ({"smoothing": 0.5}, True),
        ({"smoothing": "auto"}, True),
        ({"rounding": "gptq"}, True),
        ({"sensitivity": Sensitivity(0.9, 0.8)}, True),
    ],
)
def test_what_needs_inputs(given, calibrated):
    assert QuantizeSettings(**given).is_calibrated is calibrated
    if calibrated:
        assert QuantizeSettings(**given, calibration=Calibration(4)).calibration.inputs == 4


@pytest.mark.parametrize("strength", [0.01, 1, 1.0])
def test_strengths_that_are_allowed(strength):
    assert QuantizeSettings(smoothing=strength).smoothing == strength


@pytest.mark.parametrize("strength", [0, -0.5, 1.01])
def test_strengths_that_are_not(strength):
    with pytest.raises(ConfigError, match="allowed are auto and numbers above 0, up to 1"):
        QuantizeSettings(smoothing=strength)


def test_a_block_size_is_of_weights_alone():
    assert QuantizeSettings().block_size is None
    assert QuantizeSettings(method="weight_only").block_size == 32
    assert QuantizeSettings(method="weight_only", block_size=128).block_size == 128


def test_a_name_is_excluded_by_any_part_of_it():
    found = QuantizeSettings(exclude=("proj", r"^head\."))
    assert found.excludes("embedding_proj_layer.weight^T")
    assert found.excludes("head.0.weight")
    assert not found.excludes("overhead.0.weight")


def test_everything_of_a_variant_is_read():
    variant = {
        "precision": "int4",
        "quantization": {
            "method": "weight_only",
            "block_size": 64,
            "operators": ["MatMul"],
            "exclude": ["head"],
            "smoothing": "auto",
            "rounding": "gptq",
            "calibration": {"inputs": 9, "seed": 3},
            "sensitivity": {"mean_cosine": 0.9, "min_cosine": 0.8},
        },
    }
    assert QuantizeSettings.from_config(variant) == QuantizeSettings(
        4,
        "weight_only",
        block_size=64,
        operators=("MatMul",),
        exclude=("head",),
        smoothing="auto",
        rounding="gptq",
        calibration=Calibration(9, 3),
        sensitivity=Sensitivity(0.9, 0.8),
    )
    with pytest.raises(ConfigError, match=r"quantization.blocksize: unknown key; allowed are act"):
        QuantizeSettings.from_config({**variant, "quantization": {"blocksize": 3}})
