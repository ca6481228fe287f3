"""One stochastic layer: its KL, where z comes from, and what it leaves out."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from dvpvae_tf.layers import TopDownBlock, TopDownStep
from dvpvae_tf.layers.top_down_block import LOG_VAR_RANGE

tfd = tfp.distributions
CHANNELS, LATENT_CHANNELS = 8, 2


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def distribution(mean, log_var):
    return tfd.Independent(tfd.Normal(mean, np.exp(0.5 * np.array(log_var))), 3)


@pytest.fixture
def gaussians():
    """A step whose prior and posterior are far from one another."""
    shape = (5, 3, 3, 2)
    mean, log_var, other_mean, other_log_var = (normal(*shape, seed=seed) for seed in range(4))
    return TopDownStep(None, None, mean, log_var, other_mean, np.clip(other_log_var - 1, -10, 1))


@pytest.fixture
def block():
    """A block with random weights, so that prior and posterior are not the same."""
    block = TopDownBlock(CHANNELS, 6, LATENT_CHANNELS)
    block(features(), condition=features(1, seed=1))
    for index, weight in enumerate(block.weights):
        weight.assign(0.3 * normal(*weight.shape, seed=index))
    return block


def features(channels=CHANNELS, seed=9):
    return normal(4, 5, 5, channels, seed=seed)


def noise(seed=20):
    return normal(4, 5, 5, LATENT_CHANNELS, seed=seed)


def test_kl_agrees_with_tensorflow_probability(gaussians):
    posterior = distribution(gaussians.posterior_mean, gaussians.posterior_log_var)
    prior = distribution(gaussians.prior_mean, gaussians.prior_log_var)
    np.testing.assert_allclose(gaussians.kl(), tfd.kl_divergence(posterior, prior), rtol=1e-5)


def test_kl_agrees_with_monte_carlo(gaussians):
    posterior = distribution(gaussians.posterior_mean, gaussians.posterior_log_var)
    prior = distribution(gaussians.prior_mean, gaussians.prior_log_var)
    z = posterior.sample(20_000, seed=(1, 2))
    draws = (posterior.log_prob(z) - prior.log_prob(z)).numpy()
    standard_error = draws.std(axis=0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - gaussians.kl()) < 4 * standard_error).all()


def test_log_ratio_is_that_of_the_densities_at_the_latent(gaussians):
    posterior = distribution(gaussians.posterior_mean, gaussians.posterior_log_var)
    prior = distribution(gaussians.prior_mean, gaussians.prior_log_var)
    z = normal(5, 3, 3, 2, seed=7)
    expected = prior.log_prob(z) - posterior.log_prob(z)
    np.testing.assert_allclose(gaussians._replace(latent=z).log_ratio(), expected, rtol=1e-4, atol=1e-4)


def test_with_encoder_features_z_is_drawn_from_the_posterior(block):
    step = block(features(), features(1, seed=1), features(seed=2), noise())
    expected = step.posterior_mean + np.exp(0.5 * step.posterior_log_var) * noise()
    np.testing.assert_allclose(step.latent, expected, rtol=1e-5, atol=1e-6)
    assert (step.kl().numpy() > 0).all()


def test_without_encoder_features_z_is_drawn_from_the_prior_and_the_kl_is_zero(block):
    step = block(features(), features(1, seed=1), noise=noise())
    expected = step.prior_mean + np.exp(0.5 * step.prior_log_var) * noise()
    np.testing.assert_allclose(step.latent, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(step.kl(), np.zeros(4))
    posterior_step = block(features(), features(1, seed=1), features(seed=2), noise())
    np.testing.assert_allclose(posterior_step.prior_mean, step.prior_mean, rtol=1e-5, atol=1e-6)


def test_temperature_scales_the_noise_of_the_prior_alone(block):
    arguments = (features(), features(1, seed=1))
    mean = block(*arguments).latent
    whole, half = (block(*arguments, noise=noise(), temperature=t).latent for t in (1.0, 0.5))
    np.testing.assert_allclose(half - mean, 0.5 * (whole - mean), rtol=1e-4, atol=1e-6)
    cold = block(*arguments, noise=noise(), temperature=0.0)
    np.testing.assert_array_equal(cold.latent, mean)
    draws = [block(*arguments, features(seed=2), noise(), temperature=t).latent for t in (1.0, 0.0)]
    np.testing.assert_array_equal(*draws)


def test_without_noise_z_is_the_mean(block):
    posterior_step = block(features(), features(1, seed=1), features(seed=2))
    np.testing.assert_array_equal(posterior_step.latent, posterior_step.posterior_mean)
    prior_step = block(features(), features(1, seed=1))
    np.testing.assert_array_equal(prior_step.latent, prior_step.prior_mean)


def test_the_prior_sees_the_condition_and_the_posterior_the_encoder(block):
    step = block(features(), features(1, seed=1), features(seed=2))
    other_condition = block(features(), features(1, seed=3), features(seed=2))
    other_encoder = block(features(), features(1, seed=1), features(seed=3))
    np.testing.assert_array_equal(other_condition.posterior_mean, step.posterior_mean)
    assert np.abs(other_condition.prior_mean - step.prior_mean).max() > 1e-3
    np.testing.assert_array_equal(other_encoder.prior_mean, step.prior_mean)
    assert np.abs(other_encoder.posterior_mean - step.posterior_mean).max() > 1e-3


def test_posterior_and_features_by_hand(block):
    step = block(features(), features(1, seed=1), features(seed=2), noise())
    posterior = block.posterior((features() + features(seed=2)) / np.sqrt(2.0))
    np.testing.assert_allclose(step.posterior_mean, posterior[..., :LATENT_CHANNELS], atol=1e-5)
    update = block.prior(np.concatenate([features(), features(1, seed=1)], axis=-1))[..., 2 * LATENT_CHANNELS :]
    expected = block.residual(features() + update + block.latent_projection(step.latent))
    np.testing.assert_allclose(step.features, expected, rtol=1e-4, atol=1e-5)


def test_log_variances_are_clipped():
    block = TopDownBlock(CHANNELS, 6, LATENT_CHANNELS)
    extreme = 1000 * features()
    step = block(extreme, encoder_features=extreme)
    for log_var in (step.prior_log_var, step.posterior_log_var):
        assert LOG_VAR_RANGE == (-10.0, 1.0)
        assert (np.min(log_var), np.max(log_var)) == LOG_VAR_RANGE


def test_a_block_without_output_has_only_what_the_latent_needs():
    sizes = {}
    for has_output in (True, False):
        block = TopDownBlock(CHANNELS, 6, LATENT_CHANNELS, has_output)
        step = block(features(), features(1, seed=1), features(seed=2), noise())
        sizes[has_output] = block.count_params()
    np.testing.assert_array_equal(step.features, features())
    projection = LATENT_CHANNELS * CHANNELS + CHANNELS
    residual = (8 * 6 + 6) + 2 * (3 * 3 * 6 * 6 + 6) + (6 * 8 + 8)
    update = CHANNELS * (6 + 1) + CHANNELS * (CHANNELS + 1 + 1)  # rows of the prior's last convolution and skip
    assert sizes[True] - sizes[False] == projection + residual + update


def test_starting_weights():
    layers = 16
    block = TopDownBlock(CHANNELS, 6, LATENT_CHANNELS, residual_gain=layers**-0.5)
    block(features(), features(1, seed=1), features(seed=2))
    assert not block.prior.convolutions[-1].kernel.numpy().any()
    assert not block.posterior.convolutions[-1].kernel.numpy().any()
    assert block.prior.skip.kernel.numpy().any() and block.posterior.skip.kernel.numpy().any()
    for layer, fan_in in ((block.latent_projection, LATENT_CHANNELS), (block.residual.convolutions[-1], 6)):
        limit = 1 / np.sqrt(fan_in * layers)
        assert 0.7 * limit < np.abs(layer.kernel).max() <= limit


def test_latents_do_not_lose_bits_in_mixed_precision(block):
    mixed = TopDownBlock(CHANNELS, 6, LATENT_CHANNELS, dtype="mixed_bfloat16")
    mixed(features(), condition=features(1, seed=1))
    mixed.set_weights(block.get_weights())
    step = mixed(features(), features(1, seed=1), features(seed=2), noise())
    rounded = tf.cast(tf.cast(step.latent, "bfloat16"), "float32")
    assert np.abs(step.latent - rounded).max() > 0
    expected = step.posterior_mean + np.exp(0.5 * step.posterior_log_var) * noise()
    np.testing.assert_allclose(step.latent, expected, rtol=1e-5, atol=1e-6)
    assert isinstance(mixed.dtype_policy, keras.DTypePolicy) and step.features.dtype == "bfloat16"
