"""The convolution against Keras's own, with and without the SiLU before it: its values and all its gradients."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from dvpvae_tf.layers import ResBlock
from dvpvae_tf.layers.convolution import MemoryEfficientConv2D

TOLERANCES = {"float32": 1e-5, "mixed_bfloat16": 0.03}


def value_and_gradients(function, inputs, weights, upstream):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(inputs)
    return [outputs, *tape.gradient(outputs, [inputs, *weights], tf.cast(upstream, outputs.dtype))]


EAGER, GRAPH, XLA = None, False, True


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(
    ("size", "silu", "compiled"),
    [(1, False, EAGER), (1, True, EAGER), (3, False, EAGER), (3, True, EAGER), (3, True, GRAPH), (3, True, XLA)],
)
def test_values_and_gradients_are_those_of_keras(size, silu, dtype, compiled):
    rng = np.random.default_rng(0)
    inputs = tf.constant(3 * rng.normal(size=(5, 7, 7, 4)), tf.float32)
    upstream = tf.constant(rng.normal(size=(5, 7, 7, 6)), tf.float32)
    ours = MemoryEfficientConv2D(6, size, silu=silu, dtype=dtype)
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


def test_saved_models_know_the_layer_by_its_old_name(tmp_path):
    block = ResBlock(4, 4)
    block(tf.zeros((1, 5, 5, 4)))
    config = keras.saving.serialize_keras_object(block.convolutions[0])
    assert config["registered_name"] == "dvpvae_tf>Convolution"
    assert keras.saving.deserialize_keras_object(config).get_config() == block.convolutions[0].get_config()
    inputs = keras.Input((5, 5, 4))
    keras.Model(inputs, block(inputs)).save_weights(tmp_path / "model.weights.h5")
    with h5py.File(tmp_path / "model.weights.h5") as file:
        names = []
        file.visit(names.append)
    assert any(name.endswith("res_block/convolutions/convolution_3/vars/1") for name in names)


@pytest.mark.parametrize("silu", [False, True])
def test_no_rows_have_the_channels_of_the_layer(silu):
    layer = MemoryEfficientConv2D(6, 3, silu=silu)

    @tf.function(input_signature=[tf.TensorSpec([None, 7, 7, 4])])
    def value_and_gradient(inputs):
        outputs = layer(inputs)
        return outputs, tf.gradients(outputs, [inputs, layer.kernel.value])

    assert layer(tf.zeros([0, 7, 7, 4])).shape == (0, 7, 7, 6)
    outputs, (of_inputs, of_kernel) = value_and_gradient(tf.zeros([0, 7, 7, 4]))
    assert (outputs.shape, of_inputs.shape) == ((0, 7, 7, 6), (0, 7, 7, 4))
    np.testing.assert_array_equal(of_kernel, np.zeros((3, 3, 4, 6)))


def test_the_gradient_of_the_silu_is_finite_where_its_exponential_is_not():
    layer = MemoryEfficientConv2D(1, 1, silu=True)
    inputs = tf.constant([-1e4, -100.0, 0.0, 100.0, 1e4], shape=(5, 1, 1, 1))
    layer.build(inputs.shape)
    layer.set_weights([np.ones((1, 1, 1, 1)), np.zeros(1)])
    _, gradient, *_ = value_and_gradients(layer, inputs, [], tf.ones((5, 1, 1, 1)))
    np.testing.assert_allclose(tf.reshape(gradient, [-1]), [0, 0, 0.5, 1, 1], atol=1e-6)


def test_the_gradient_of_a_bias_in_bfloat16_is_summed_in_float32():
    layer = MemoryEfficientConv2D(1, 1, dtype="mixed_bfloat16")
    inputs = tf.ones((4, 64, 64, 1))
    layer.build(inputs.shape)
    _, _, gradient = value_and_gradients(layer, inputs, [layer.bias.value], tf.ones((4, 64, 64, 1)))
    np.testing.assert_array_equal(gradient, [4 * 64 * 64])  # a sum in bfloat16 stops at 256
