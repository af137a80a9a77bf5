"""Sub-pixel upsampling: the same convolution in less arithmetic, and nothing left behind."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.upsampling import Upsample2D

from engine import InpaintEngine
from engine.models.speed.upsampling import folded, subpixel_upsampling, upsampled


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (16, 3)])
@pytest.mark.parametrize("biased", [True, False])
def test_upsampled_is_the_convolution_of_the_doubled_picture(size, biased):
    make = torch.Generator().manual_seed(1)
    features = torch.randn(2, 6, *size, generator=make, dtype=torch.float64)
    weight = torch.randn(4, 6, 3, 3, generator=make, dtype=torch.float64)
    bias = torch.randn(4, generator=make, dtype=torch.float64) if biased else None
    doubled = F.interpolate(features, scale_factor=2.0, mode="nearest")
    expected = F.conv2d(doubled, weight, bias, padding=1)
    # sums of at most 54 products in float64, in another order
    torch.testing.assert_close(
        upsampled(features, folded(weight), bias), expected, atol=1e-12, rtol=0
    )


def test_layers_follow_their_weights_and_are_left_as_they_were():
    layer = Upsample2D(8, use_conv=True)
    features = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for _ in range(2):
            with subpixel_upsampling(layer):
                assert "forward" in vars(layer)
                quick = layer(features)
            assert "forward" not in vars(layer)
            torch.testing.assert_close(quick, layer(features), atol=1e-5, rtol=0)
            for weight in layer.parameters():
                weight.mul_(-2)


def test_layers_are_left_as_they_were_after_an_error():
    layer = Upsample2D(8, use_conv=True)
    with pytest.raises(RuntimeError), subpixel_upsampling(layer):
        layer(torch.zeros(1, 5, 4, 4))  # of five channels
    assert "forward" not in vars(layer)


@pytest.mark.parametrize(
    "layer",
    [
        Upsample2D(8, use_conv=False),
        Upsample2D(8, use_conv_transpose=True),
        Upsample2D(8, use_conv=True, kernel_size=1, padding=0),
    ],
    ids=["no convolution", "transposed", "1 x 1"],
)
def test_other_layers_are_let_be(layer):
    with subpixel_upsampling(layer):
        assert "forward" not in vars(layer)


def test_layers_inside_of_something_compiled_are_let_be():
    layer = Upsample2D(8, use_conv=True)
    around = torch.nn.Sequential(layer)
    around.compile(backend="eager")
    with subpixel_upsampling(around):
        assert "forward" not in vars(layer)


def test_decoded_pictures_differ_in_the_last_bits_only():
    backbone = InpaintEngine.from_pretrained(device="cpu").backbone
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        quick, exact = backbone.decode(latents), backbone.decode(latents, parity=True)
    # float32 of values to 1 through twenty layers; 3e-6 was measured
    torch.testing.assert_close(quick, exact, atol=2e-5, rtol=0)
