"""The parts of the noise predictor, by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from dvpvae_tf.layers import UNet
from dvpvae_tf.layers.group_norm import AdaptiveGroupNorm
from dvpvae_tf.layers.unet import SelfAttention, TimeEmbedding, UNetBlock


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def randomise(layer):
    for index, weight in enumerate(layer.weights):
        weight.assign(0.5 * normal(*weight.shape, seed=100 + index))


def silu(x):
    return x * special.expit(x)


def affine(x, dense):
    return x @ dense.kernel.numpy() + dense.bias.numpy()


def group_norm(x, layer, groups=16, epsilon=1e-5):
    """Each group of channels normalised over positions and the channels of the group."""
    grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean, var = (f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    return ((grouped - mean) / np.sqrt(var + epsilon)).reshape(x.shape) * layer.gamma.numpy() + layer.beta.numpy()


def test_time_embedding_is_half_cosines_then_half_sines():
    layer, times = TimeEmbedding(8), np.array([0.0, 0.3, 1.0], "float32")
    layer(times)
    randomise(layer)
    angles = times[:, None] * 10000.0 ** (-np.arange(4) / 4)
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    expected = affine(silu(affine(waves, layer.hidden)), layer.output_layer)
    np.testing.assert_allclose(layer(times), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_group_norm_is_keras_own(groups):
    ours, theirs = AdaptiveGroupNorm(groups, epsilon=1e-5), keras.layers.GroupNormalization(groups, epsilon=1e-5)
    x = 3.0 + normal(2, 5, 5, 16)
    for layer in (ours, theirs):
        layer(x)
        randomise(layer)
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    far = 100.0 + normal(2, 5, 5, 16)
    np.testing.assert_allclose(ours(far), theirs(far), atol=0.02)


def test_group_norm_in_bfloat16_loses_no_more_than_its_output_does():
    exact, rounded = AdaptiveGroupNorm(4), AdaptiveGroupNorm(4, dtype="mixed_bfloat16")
    x = tf.cast(10.0 + normal(2, 5, 5, 16), "bfloat16")
    expected = exact(tf.cast(x, "float32"))
    np.testing.assert_allclose(tf.cast(rounded(x), "float32"), expected, rtol=2**-8, atol=1e-3)


def test_block_by_hand():
    block, x, embedding = UNetBlock(32), normal(2, 3, 3, 16), normal(2, 8, seed=1)
    block(x, embedding)
    randomise(block)
    h = block.conv_in(group_norm(x, block.norm_in).astype("float32")).numpy()  # with a SiLU of its own
    scale, shift = np.split(affine(silu(embedding), block.modulation)[:, None, None], 2, axis=-1)
    h = silu(group_norm(h, block.norm_out) * (1 + scale) + shift)
    expected = block.conv_out(h.astype("float32")) + block.skip(x)
    np.testing.assert_allclose(block(x, embedding), expected, rtol=1e-3, atol=1e-4)


def test_attention_by_hand():
    layer, x = SelfAttention(), normal(2, 3, 3, 16)
    layer(x)
    randomise(layer)
    tokens = affine(group_norm(x, layer.norm).reshape(2, 9, 16), layer.query_key_value)
    query, key, value = np.split(tokens, 3, axis=-1)
    weights = special.softmax(query @ key.transpose(0, 2, 1) / 4.0, axis=-1)
    expected = x + affine(weights @ value, layer.projection).reshape(x.shape)
    np.testing.assert_allclose(layer(x), expected, rtol=1e-3, atol=1e-3)


def test_starts_by_predicting_zero():
    y, time = normal(2, 3, 3, 1), np.array([0.1, 0.9], "float32")
    np.testing.assert_array_equal(UNet()(y, time), np.zeros_like(y))


def test_an_example_depends_on_its_own_time_alone():
    unet, y = UNet(blocks=1), normal(3, 3, 3, 1)
    unet(y, np.zeros(3, "float32"))
    randomise(unet)
    first, second = (unet(y, np.array([0.1, time, 0.7], "float32")) for time in (0.2, 0.8))
    np.testing.assert_allclose(first[0], second[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(first[2], second[2], rtol=1e-5, atol=1e-5)
    assert np.abs(first[1] - second[1]).max() > 1e-3


def test_dropout_is_for_training_alone():
    unet, y, time = UNet(blocks=1, dropout=0.5), normal(2, 3, 3, 1), np.full(2, 0.5, "float32")
    unet(y, time)
    randomise(unet)
    np.testing.assert_array_equal(unet(y, time), unet(y, time))
    assert np.abs(unet(y, time, training=True) - unet(y, time)).max() > 1e-3


def test_times_keep_their_precision_in_bfloat16():
    unet, y, time = UNet(blocks=1, dtype="mixed_bfloat16"), normal(2, 3, 3, 1), np.array([0.501, 0.777], "float32")
    seen, embed = [], unet.time_embedding.call
    unet.time_embedding.call = lambda time: seen.append(time) or embed(time)
    assert unet(y, time).dtype == "bfloat16"
    assert seen[0].dtype == "float32"
    np.testing.assert_array_equal(seen[0], time)


def test_channels_that_do_not_fit_the_groups_are_refused():
    with pytest.raises(ValueError, match="must be divisible by 16, got 24"):
        UNet(channels=24)
