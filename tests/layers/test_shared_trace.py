"""Blocks that share a traced function, against the same blocks called one by one."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf

from dvpvae_tf.layers.res_block import ResBlock
from dvpvae_tf.layers.shared_trace import SharedTrace
from dvpvae_tf.layers.unet import UNetBlock


def make_blocks(dtype="float32"):
    """Four blocks of one config, one of them for other inputs, with weights of their own."""
    rng, blocks = np.random.default_rng(0), []
    for index in range(4):
        block = ResBlock(4, 3, name=f"block_{index}", dtype=dtype)
        block.build((None, 5, 5, 4 if index < 3 else 8))
        block.set_weights([rng.normal(size=weight.shape) for weight in block.weights])
        blocks.append(block)
    return blocks


def outputs_and_gradients(blocks, call, inputs):
    weights = [weight for block in blocks for weight in block.trainable_weights]

    @tf.function
    def compute(inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            x = inputs
            for block in blocks[:3]:
                x = call(block, x)
            x = call(blocks[3], tf.concat([x, inputs], axis=-1))
            loss = tf.reduce_sum(tf.cast(x, tf.float32) ** 2)
        return x, tape.gradient(loss, [inputs, *weights])

    concrete = compute.get_concrete_function(tf.TensorSpec([None, 5, 5, 4], inputs.dtype))
    return concrete(inputs), concrete


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_shared_blocks_compute_what_they_compute_alone(dtype):
    blocks, inputs = make_blocks(dtype), tf.random.stateless_normal([2, 5, 5, 4], [1, 2])
    blocks[1].trainable = False
    inputs = tf.cast(inputs, blocks[0].compute_dtype)
    (output, gradients), shared = outputs_and_gradients(blocks, SharedTrace(), inputs)
    (expected, expected_gradients), alone = outputs_and_gradients(blocks, lambda block, x: block(x), inputs)
    tolerance = 1e-5 if dtype == "float32" else 3e-2
    assert len(gradients) == 1 + sum(len(block.trainable_weights) for block in blocks)
    for ours, theirs in zip([output, *gradients], [expected, *expected_gradients], strict=True):
        theirs = np.asarray(tf.cast(theirs, tf.float32))
        np.testing.assert_allclose(tf.cast(ours, tf.float32), theirs, atol=tolerance * np.abs(theirs).max())
    assert len(shared.graph.get_operations()) < len(alone.graph.get_operations()) / 2
    calls = [op.get_attr("f").name for op in shared.graph.get_operations() if op.type == "PartitionedCall"]
    forward = [name for name in calls if "forward" in name]
    assert len(forward) == 4 and len(set(forward)) == 3, "one for two alike, one for the frozen, one for the last"


def test_outside_of_graphs_a_block_is_called_as_it_is():
    block, call = make_blocks()[0], SharedTrace()
    inputs = tf.ones([1, 5, 5, 4])
    np.testing.assert_array_equal(call(block, inputs), block(inputs))
    assert not call._functions


def test_a_block_with_dropout_draws_anew_at_each_call():
    block, call = UNetBlock(16, dropout=0.5), SharedTrace()
    block.build((None, 4, 4, 16), (None, 16))
    block.conv_out.kernel.assign(np.random.default_rng(0).normal(size=block.conv_out.kernel.shape))

    @tf.function
    def compute(inputs, embedding):
        return call(block, inputs, embedding, training=True), call(block, inputs, embedding, training=True)

    first, second = compute(tf.ones([1, 4, 4, 16]), tf.ones([1, 16]))
    again, _ = compute(tf.ones([1, 4, 4, 16]), tf.ones([1, 16]))
    assert np.abs(first - second).max() > 1e-3 and np.abs(first - again).max() > 1e-3


def test_a_rematerialised_block_keeps_its_gradients():
    with keras.RematScope(mode="full"):
        blocks = make_blocks()
    (_, gradients), _ = outputs_and_gradients(blocks, SharedTrace(), tf.ones([1, 5, 5, 4]))
    (_, expected), _ = outputs_and_gradients(make_blocks(), lambda block, x: block(x), tf.ones([1, 5, 5, 4]))
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)


def test_a_copy_traces_its_own_layers():
    call = SharedTrace()
    call._functions["key"] = None
    assert not copy.deepcopy(call)._functions
