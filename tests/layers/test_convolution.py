"""The convolution against Keras's own, with and without the SiLU before it: its values and all its gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from dvpvae_tf.layers.convolution import Convolution

TOLERANCES = {"float32": 1e-5, "mixed_bfloat16": 0.03}


def value_and_gradients(function, inputs, weights, upstream):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(inputs)
    return [outputs, *tape.gradient(outputs, [inputs, *weights], tf.cast(upstream, outputs.dtype))]


@pytest.mark.parametrize("compiled", [None, False, True], ids=["eager", "graph", "XLA"])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("size", [1, 3])
def test_values_and_gradients_are_those_of_keras(size, silu, dtype, compiled):
    rng = np.random.default_rng(0)
    inputs = tf.constant(3 * rng.normal(size=(5, 7, 7, 4)), tf.float32)
    upstream = tf.constant(rng.normal(size=(5, 7, 7, 6)), tf.float32)
    ours = Convolution(6, size, silu=silu, dtype=dtype)
    keras_own = keras.layers.Conv2D(6, size, padding="same", dtype="float32")
    for layer in (ours, keras_own):
        layer.build(inputs.shape)
        layer.set_weights([np.random.default_rng(1).normal(size=w.shape) for w in layer.weights])

    def expected(x):
        return keras_own(keras.ops.silu(x) if silu else x)

    def actual(x):
        return value_and_gradients(ours, x, [weight.value for weight in ours.weights], upstream)

    function = actual if compiled is None else tf.function(actual, jit_compile=compiled)
    weights = [weight.value for weight in keras_own.weights]
    for mine, theirs in zip(function(inputs), value_and_gradients(expected, inputs, weights, upstream), strict=True):
        error = np.abs(tf.cast(mine, tf.float32) - theirs)
        assert error.max() < TOLERANCES[dtype] * np.abs(theirs).max()


def test_the_gradient_of_the_silu_is_finite_where_its_exponential_is_not():
    layer = Convolution(1, 1, silu=True)
    inputs = tf.constant([-1e4, -100.0, 0.0, 100.0, 1e4], shape=(5, 1, 1, 1))
    layer.build(inputs.shape)
    layer.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    _, gradient, *_ = value_and_gradients(layer, inputs, [], tf.ones((5, 1, 1, 1)))
    np.testing.assert_allclose(tf.reshape(gradient, [-1]), [0, 0, 0.5, 1, 1], atol=1e-6)


def test_the_gradient_of_a_bias_in_bfloat16_is_summed_in_float32():
    layer = Convolution(1, 1, dtype="mixed_bfloat16")
    inputs = tf.ones((4, 64, 64, 1))
    layer.build(inputs.shape)
    _, _, gradient = value_and_gradients(layer, inputs, [layer.bias.value], tf.ones((4, 64, 64, 1)))
    np.testing.assert_array_equal(gradient, [4 * 64 * 64])  # a sum in bfloat16 stops at 256
