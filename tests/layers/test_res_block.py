"""The residual block of both paths, by hand, and how it starts."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import signal, special

from dvpvae_tf.layers import ResBlock
from dvpvae_tf.layers.convolution import MemoryEfficientConv2D


def silu(x):
    return x * special.expit(x)


def convolve(x, layer):
    """A "same" convolution of one NHWC image in float64."""
    kernel, bias = (weight.numpy().astype("float64") for weight in (layer.kernel, layer.bias))
    maps = [
        sum(signal.correlate2d(x[..., i], kernel[:, :, i, o], "same") for i in range(x.shape[-1]))
        for o in range(kernel.shape[-1])
    ]
    return np.stack(maps, axis=-1) + bias


@pytest.mark.parametrize("activation_first", [True, False])
@pytest.mark.parametrize("channels", [3, 4])
def test_four_convolutions_with_silu_between_them_and_a_skip(activation_first, channels):
    block = ResBlock(channels, 5, activation_first)
    image = np.random.default_rng(0).normal(size=(6, 6, 3))
    actual = block(image[None].astype("float32"))
    for layer in block.convolutions:
        layer.bias.assign(np.random.default_rng(1).normal(size=layer.bias.shape))
    actual = block(image[None].astype("float32"))[0]
    first, second, third, fourth = block.convolutions
    assert [layer.kernel_size[0] for layer in block.convolutions] == [1, 3, 3, 1]
    x = convolve(silu(image) if activation_first else image, first)
    x = convolve(silu(x), second)
    x = convolve(silu(x), third)
    x = convolve(silu(x), fourth)
    skip = image if channels == 3 else convolve(image, block.skip)
    np.testing.assert_allclose(actual, x + skip, atol=1e-5)


def test_an_output_gain_of_zero_starts_the_block_as_its_skip():
    block = ResBlock(4, 8, output_gain=0.0)
    inputs = tf.random.stateless_normal((2, 5, 5, 4), [0, 0])
    np.testing.assert_array_equal(block(inputs), inputs)


@pytest.mark.parametrize("gain", [1.0, 0.25])
def test_weights_start_uniform_within_gain_over_root_fan_in_and_biases_at_zero(gain):
    layer = MemoryEfficientConv2D(64, 3, gain=gain)
    layer.build((None, 8, 8, 16))
    limit = gain / np.sqrt(3 * 3 * 16)
    kernel = layer.kernel.numpy() / limit
    assert 0.99 < np.abs(kernel).max() <= 1.0
    assert abs(kernel.std() - 1 / np.sqrt(3)) < 0.02
    assert not layer.bias.numpy().any()


def test_layers_of_one_shape_start_differently():
    block = ResBlock(4, 4)
    block.build((None, 5, 5, 4))
    first, second, third, fourth = (layer.kernel.numpy() for layer in block.convolutions)
    assert not np.array_equal(second, third)
    assert not np.array_equal(first, fourth)
