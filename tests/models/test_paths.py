"""The two paths: shapes and scales, the aggregation of latents, and one walk for all uses."""

import numpy as np
import pytest
import tensorflow as tf

from dvpvae_tf.layers.pseudoinputs import resize_bilinear
from dvpvae_tf.models.bottom_up import BottomUp
from dvpvae_tf.models.top_down import TopDown


def normal(*shape, seed=0):
    return tf.random.stateless_normal(shape, (seed, 1))


def randomise(layer):
    for index, weight in enumerate(layer.weights):
        weight.assign(0.3 * normal(*weight.shape, seed=50 + index))
    return layer


def make_top_down(**changes):
    settings = {
        "image_size": 8,
        "scales": (4, 2),
        "layers_per_scale": (2, 1),
        "channels": 8,
        "hidden_channels": 6,
        "latent_channels": 2,
        "output_channels": 3,
    }
    layer = TopDown(**settings | changes)
    layer(noise(), condition=normal(5, 8, 8, 1))
    return randomise(layer)


def noise(seed=0):
    return [normal(5, side, side, 2, seed=seed + i) for i, side in enumerate((2, 4, 4))]


def encoder_features(seed=10):
    return {side: normal(5, side, side, 8, seed=seed + side) for side in (4, 2)}


def test_bottom_up_pools_after_the_blocks_of_each_scale():
    layer, images = BottomUp((8, 4, 2), 6, 5, 2), normal(3, 8, 8, 1)
    layer(images)
    randomise(layer)
    x = layer.conv_in(images)
    expected = []
    for side, stage in zip((8, 4, 2), layer.stages, strict=True):
        for block in stage:
            x = block(x)
        factor = x.shape[1] // side
        x = np.mean(np.reshape(x, (3, side, factor, side, factor, 6)), axis=(2, 4))
        expected.append(x)
    for features, of_scale in zip(layer(images), expected, strict=True):
        np.testing.assert_allclose(features, of_scale, rtol=1e-4, atol=1e-4)
    assert layer.conv_in.kernel_size == (1, 1)


def test_latents_run_from_coarse_to_fine():
    layer = make_top_down()
    assert layer.latent_shapes == [(2, 2, 2), (4, 4, 2), (4, 4, 2)]
    parameters, steps = layer(noise(), normal(5, 8, 8, 1), encoder_features())
    assert parameters.shape == (5, 8, 8, 3)
    assert [tuple(step.latent.shape[1:]) for step in steps] == layer.latent_shapes


def test_likelihood_sees_the_scaled_sum_of_all_upsampled_latents():
    layer = make_top_down()
    parameters, steps = layer(noise(), normal(5, 8, 8, 1), encoder_features())
    total = sum(tf.image.resize(step.latent, (8, 8), method="bilinear") for step in steps) / np.sqrt(3)
    np.testing.assert_allclose(parameters, layer.conv_out(layer.aggregation(total)), rtol=1e-4, atol=1e-4)
    assert (layer.aggregation.kernel_size, layer.conv_out.kernel_size) == ((1, 1), (3, 3))


def test_without_aggregation_the_likelihood_sees_the_last_features():
    layer = make_top_down(likelihood_input="last_features")
    parameters, steps = layer(noise(), normal(5, 8, 8, 1), encoder_features())
    expected = layer.conv_out(tf.image.resize(steps[-1].features, (8, 8), method="bilinear"))
    np.testing.assert_allclose(parameters, expected, rtol=1e-4, atol=1e-4)


def test_the_likelihood_may_see_the_last_latent_alone():
    layer = make_top_down(likelihood_input="last_latent")
    parameters, steps = layer(noise(), normal(5, 8, 8, 1), encoder_features())
    last = tf.image.resize(steps[-1].latent, (8, 8), method="bilinear")
    np.testing.assert_allclose(parameters, layer.conv_out(layer.aggregation(last)), rtol=1e-4, atol=1e-4)


def test_another_likelihood_input_is_refused():
    with pytest.raises(ValueError, match="likelihood_input is 'latents': give one of all_latents, last_latent, last_"):
        make_top_down(likelihood_input="latents")


@pytest.mark.parametrize("likelihood_input", ["all_latents", "last_latent", "last_features"])
def test_only_a_last_block_whose_latent_is_seen_lacks_its_output(likelihood_input):
    blocks = make_top_down(likelihood_input=likelihood_input).blocks
    assert [block.has_output for block in blocks] == [True, True, likelihood_input == "last_features"]
    assert {block.residual_gain for block in blocks} == {3**-0.5}


def test_the_walk_by_hand():
    """Ones at the top, average-pooled condition, encoder features by scale, upsampling between scales."""
    layer, condition, features = make_top_down(), normal(5, 8, 8, 1), encoder_features()
    _, steps = layer(noise(), condition, features)
    state = tf.ones((5, 2, 2, 8))
    for index, side in enumerate((2, 4, 4)):
        if side != state.shape[1]:
            state = resize_bilinear(state, side)
        pooled = tf.reduce_mean(tf.reshape(2 * condition - 1, (5, side, 8 // side, side, 8 // side, 1)), axis=(2, 4))
        step = layer.blocks[index](state, pooled, features[side], noise()[index])
        for expected, actual in zip(step, steps[index], strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)
        state = step.features


def test_scales_without_encoder_features_are_drawn_from_the_prior():
    layer, condition = make_top_down(), normal(5, 8, 8, 1)
    coarse = {2: encoder_features()[2]}
    _, steps = layer(noise(), condition, coarse)
    kls = np.array([step.kl() for step in steps])
    assert (kls[0] > 0).all() and not kls[1:].any()
    np.testing.assert_allclose(steps[0].latent, layer(noise(), condition, encoder_features())[1][0].latent)


def test_temperature_reaches_every_layer_that_is_drawn_from_its_prior():
    layer, condition = make_top_down(), normal(5, 8, 8, 1)
    cold = layer(noise(), condition, temperature=0.0)
    np.testing.assert_array_equal(cold[0], layer(noise(seed=7), condition, temperature=0.0)[0])
    for step in cold[1]:
        np.testing.assert_array_equal(step.latent, step.prior_mean)
    _, (top, *_) = layer(noise(), condition, temperature=0.5)
    expected = top.prior_mean + 0.5 * np.exp(0.5 * top.prior_log_var) * noise()[0]
    np.testing.assert_allclose(top.latent, expected, rtol=1e-4, atol=1e-5)


def test_the_condition_reaches_every_layer():
    layer = make_top_down()
    first, second = (layer(noise(), normal(5, 8, 8, 1, seed=seed))[1] for seed in (1, 2))
    for one, other in zip(first, second, strict=True):
        assert np.abs(one.prior_mean - other.prior_mean).max() > 1e-3
