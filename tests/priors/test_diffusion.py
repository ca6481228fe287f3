"""The diffusion prior where the answer is known: Gaussian pseudoinputs, whose noise has a perfect predictor."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import stats

from dvpvae_tf.priors import DiffusionPrior

tfd = tfp.distributions
SHAPE = (2, 2, 1)
DIMENSIONS = math.prod(SHAPE)
MEAN, VARIANCE = 0.6, 0.04


def squares(prior, time):
    """alpha^2 and sigma^2 in double precision (Eq. 25)."""
    gamma = prior.schedule.gamma_min + prior.schedule.slope * np.float64(time)
    return 1 / (1 + np.exp(gamma)), 1 / (1 + np.exp(-gamma))


def normal(*shape, seed=0):
    return tf.random.stateless_normal(shape, (seed, 1))


@pytest.fixture
def make_prior():
    def make(**kwargs):
        prior = DiffusionPrior(**{"blocks": 1, "steps": 8, "clip": False} | kwargs)
        prior.build((None, *SHAPE))
        return prior

    return make


@pytest.fixture
def make_gaussian_prior(make_prior):
    """A prior whose network is replaced by the best predictor of the noise for u ~ N(m, v I)."""

    def make(**kwargs):
        prior = make_prior(**kwargs)

        def predict_noise(y, time, training=False):
            time = tf.reshape(time, [-1, 1, 1, 1])
            alpha, sigma = prior.schedule.alpha(time), prior.schedule.sigma(time)
            return sigma * (y - alpha * MEAN) / (alpha**2 * VARIANCE + sigma**2)

        prior.predict_noise = predict_noise
        return prior

    return make


def test_bound_is_the_cross_entropy_of_what_it_generates(make_gaussian_prior):
    """With the best predictor the backward process is exact but for its two ends.

    So E[-L_vlb] is the entropy of u plus KL(q(y_1) || N(0, I)) plus E KL(q(u|y_0) || r(u|y_0)), all of Gaussians.
    """
    prior, rows = make_gaussian_prior(gamma_min=-3.0, gamma_max=4.0), 200_000
    u = MEAN + VARIANCE**0.5 * normal(rows, *SHAPE)
    bound = tf.add_n(prior.negative_bound(u, normal(rows, prior.bound_noise_size, seed=1))).numpy()
    entropy = stats.norm(MEAN, VARIANCE**0.5).entropy()
    alpha_squared, sigma_squared = squares(prior, 1.0)
    last = tfd.Normal(alpha_squared**0.5 * MEAN, (alpha_squared * VARIANCE + sigma_squared) ** 0.5)
    at_the_end = tfd.kl_divergence(last, tfd.Normal(np.float64(0), np.float64(1))).numpy()
    alpha_squared, sigma_squared = squares(prior, 0.0)
    at_the_start = 0.5 * np.log1p(sigma_squared / (alpha_squared * VARIANCE))
    expected = DIMENSIONS * (entropy + at_the_end + at_the_start)
    standard_error = bound.std() / np.sqrt(rows)
    assert standard_error < 0.02
    assert abs(bound.mean() - expected) < 4 * standard_error


def test_continuous_time_loss_is_the_limit_of_many_steps(make_prior):
    """For a predictor that is no one's optimum: the sum of T Gaussian KLs of Eq. 31, by Eq. 27 and 28."""
    prior, steps, rows = make_prior(gamma_min=-3.0, gamma_max=4.0), 400, 256
    prior.predict_noise = lambda y, time, training=False: 0.5 * tf.tanh(y) + tf.reshape(time, [-1, 1, 1, 1])
    u = np.linspace(-1, 1, DIMENSIONS).reshape(1, *SHAPE)
    rng = np.random.default_rng(0)
    totals = np.zeros(rows)
    for i in range(1, steps + 1):
        (at, st), (as_, ss) = squares(prior, i / steps), squares(prior, (i - 1) / steps)
        y = at**0.5 * u + st**0.5 * rng.normal(size=(rows, *SHAPE))
        noise = 0.5 * np.tanh(y) + i / steps
        predicted = (y - st**0.5 * noise) / at**0.5
        of_u = (as_ - at) / (st * as_**0.5)
        variance = (as_ - at) / as_ * ss / st
        totals += np.sum((of_u * (u - predicted)) ** 2, axis=(1, 2, 3)) / (2 * variance)
    many = tf.tile(tf.cast(u, tf.float32), [100_000, 1, 1, 1])
    time = tf.random.stateless_uniform([100_000], (3, 3))
    loss = prior.diffusion_loss(many, time, normal(100_000, *SHAPE, seed=2)).numpy()
    error = np.hypot(loss.std() / np.sqrt(len(loss)), totals.std() / np.sqrt(rows))
    # T steps cost about (1/2) gamma'(1) / T more of the loss at most.
    assert abs(loss.mean() - totals.mean()) < 4 * error + 0.01 * totals.mean()


def test_terms_of_the_bound(make_prior):
    prior = make_prior()
    for index, weight in enumerate(prior.trainable_variables):
        weight.assign_add(0.1 * normal(*weight.shape, seed=index))
    u, noise = normal(5, *SHAPE), normal(5, prior.bound_noise_size, seed=1)
    terms = prior.negative_bound(u, noise)
    time = stats.norm.cdf(noise[:, 0]).astype("float32")
    eps = tf.reshape(noise[:, 1:], u.shape)
    alpha, sigma = (f(time.reshape(-1, 1, 1, 1)) for f in (prior.schedule.alpha, prior.schedule.sigma))
    error = np.sum((eps - prior.unet(alpha * u + sigma * eps, time)) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(terms.diffusion, 0.5 * 13.0 * error, rtol=1e-4)
    np.testing.assert_allclose(terms.prior_kl, prior.schedule.prior_kl(u))
    np.testing.assert_allclose(terms.reconstruction, [prior.schedule.reconstruction(DIMENSIONS)] * 5, rtol=1e-6)
    for term, called in zip(terms, prior(u, noise), strict=True):
        assert term.shape == (5,) and term.dtype == "float32"
        np.testing.assert_allclose(called, term, rtol=1e-5)


@pytest.mark.parametrize("gammas", [(-6.0, 7.0), (-10.0, 7.0), (-1.0, 1.0)])
def test_prior_kl_agrees_with_tensorflow_probability(make_prior, gammas):
    prior, u = make_prior(gamma_min=gammas[0], gamma_max=gammas[1]), normal(6, *SHAPE).numpy()
    alpha_squared, sigma_squared = squares(prior, 1.0)
    q = tfd.Normal(alpha_squared**0.5 * u.astype("float64"), sigma_squared**0.5)
    expected = tfd.kl_divergence(q, tfd.Normal(np.float64(0), np.float64(1))).numpy().sum(axis=(1, 2, 3))
    np.testing.assert_allclose(prior.schedule.prior_kl(u), expected, rtol=1e-5)


@pytest.mark.parametrize("gamma_min", [-6.0, -1.0])
def test_reconstruction_agrees_with_monte_carlo(make_prior, gamma_min):
    prior, u = make_prior(gamma_min=gamma_min), np.float64(0.3)
    alpha_squared, sigma_squared = squares(prior, 0.0)
    y = alpha_squared**0.5 * u + sigma_squared**0.5 * np.random.default_rng(0).normal(size=100_000)
    draws = -DIMENSIONS * stats.norm(y / alpha_squared**0.5, (sigma_squared / alpha_squared) ** 0.5).logpdf(u)
    assert abs(draws.mean() - prior.schedule.reconstruction(DIMENSIONS)) < 4 * draws.std() / np.sqrt(len(draws))


def moments_of_ancestral_sampling(prior, steps, temperature):
    """Mean and variance after T steps of the naive Eq. 27 and 28 with the linear predictor, in double precision."""
    mean, variance = 0.0, 1.0
    for i in range(steps, 0, -1):
        (at, st), (as_, ss) = squares(prior, i / steps), squares(prior, (i - 1) / steps)
        slope = st / (at * VARIANCE + st)  # sigma * predicted noise = slope * (y - alpha m)
        of_y = (at / as_) ** 0.5 * ss / st
        of_u = (as_ - at) / (st * as_**0.5)
        factor = of_y + of_u * (1 - slope) / at**0.5
        mean = factor * mean + of_u * slope * MEAN
        variance = factor**2 * variance + temperature**2 * (as_ - at) / as_ * ss / st
    alpha_squared, sigma_squared = squares(prior, 0.0)
    return mean / alpha_squared**0.5, (variance + temperature**2 * sigma_squared) / alpha_squared


@pytest.mark.parametrize(("steps", "temperature"), [(1, 1.0), (5, 1.0), (5, 0.6), (200, 1.0)])
def test_ancestral_sampling_has_the_moments_of_its_equations(make_gaussian_prior, steps, temperature):
    prior, rows = make_gaussian_prior(), 20_000
    u = prior.sample(normal(rows, prior.sample_noise_size(steps)), steps, temperature).numpy()
    assert u.shape == (rows, *SHAPE)
    mean, variance = moments_of_ancestral_sampling(prior, steps, temperature)
    assert abs(u.mean() - mean) < 4 * np.sqrt(variance / u.size)
    assert abs(u.var() / variance - 1) < 4 * np.sqrt(2 / u.size)
    assert abs(np.corrcoef(u.reshape(rows, -1).T)[0, 1]) < 4 / np.sqrt(rows)
    if steps == 200:
        assert abs(mean - MEAN) < 0.01
        assert abs(variance - VARIANCE) < 0.005
        assert stats.kstest(u.ravel()[:2000], stats.norm(MEAN, VARIANCE**0.5).cdf).pvalue > 0.001


def test_at_temperature_zero_only_the_first_noise_matters(make_prior):
    prior = make_prior()
    for index, weight in enumerate(prior.trainable_variables):
        weight.assign_add(0.1 * normal(*weight.shape, seed=index))
    first, second = normal(2, 3, prior.sample_noise_size())
    start_of_first = tf.concat([first[:, :DIMENSIONS], second[:, DIMENSIONS:]], axis=1)
    cold, other_steps, other_start = (prior.sample(noise, temperature=0.0) for noise in (first, start_of_first, second))
    np.testing.assert_array_equal(cold, other_steps)
    assert np.abs(cold - other_start).max() > 0.01
    assert np.abs(prior.sample(first) - prior.sample(start_of_first)).max() > 0.01


def test_a_step_is_the_posterior_given_the_prediction(make_prior):
    prior = make_prior()
    y, source, target = normal(4, *SHAPE), tf.constant([0.2, 0.5, 0.9, 1.0]), tf.constant([0.1, 0.4, 0.1, 0.9])
    mean, deviation = prior.transition(y, source, target)
    column = [tf.reshape(time, [-1, 1, 1, 1]) for time in (source, target)]
    expected = prior.schedule.posterior(y, prior.predict_u(y, source), *column)
    np.testing.assert_array_equal(mean, expected[0])
    np.testing.assert_array_equal(deviation, expected[1])
    assert deviation.shape == (4, 1, 1, 1)


@pytest.mark.parametrize("clip", [True, False])
def test_predictions_of_u_are_clipped_where_u_is_bounded(make_prior, clip):
    prior, time = make_prior(clip=clip), tf.constant([0.5, 0.5, 0.5])
    prior.predict_noise = lambda y, time, training=False: tf.zeros_like(y)
    y = prior.schedule.alpha(0.5) * tf.constant([0.5, -2.0, 3.0])[:, None, None, None] * tf.ones(SHAPE)
    expected = [0.5, -1.0, 1.0] if clip else [0.5, -2.0, 3.0]
    np.testing.assert_allclose(prior.predict_u(y, time)[:, 0, 0, 0], expected, rtol=1e-5)
    furthest = np.abs(prior.sample(normal(200, prior.sample_noise_size()))).max()
    assert (furthest < 1.5) == clip


def test_predict_u_inverts_diffuse(make_prior):
    prior, u, noise = make_prior(), normal(3, *SHAPE), normal(3, *SHAPE, seed=1)
    time = tf.constant([0.1, 0.5, 0.8])
    y = prior.schedule.diffuse(u, tf.reshape(time, [-1, 1, 1, 1]), noise)
    prior.predict_noise = lambda y, time, training=False: noise
    np.testing.assert_allclose(prior.predict_u(y, time), u, atol=1e-4)


def test_steps_may_be_chosen_when_sampling(make_prior):
    prior = make_prior(steps=8)
    assert prior.sample_noise_size() == 10 * DIMENSIONS
    assert prior.sample_noise_size(3) == 5 * DIMENSIONS
    assert prior.sample(normal(2, 5 * DIMENSIONS), steps=3).shape == (2, *SHAPE)


def test_steps_are_checked_in_one_place(make_prior):
    prior = make_prior(steps=8)
    assert prior.steps == 8 and prior.has_steps and prior.check_steps(None) == 8 and prior.check_steps(3) == 3
    for use in (prior.check_steps, prior.sample_noise_size, prior.estimate_noise_size):
        with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
            use(0)


def test_a_row_is_sampled_and_estimated_alone(make_prior):
    prior = make_prior()
    for index, weight in enumerate(prior.trainable_variables):
        weight.assign_add(0.1 * normal(*weight.shape, seed=index))
    noise = normal(6, prior.sample_noise_size())
    np.testing.assert_allclose(prior.sample(noise)[2:4], prior.sample(noise[2:4]), rtol=1e-5, atol=1e-5)
    u, noise = normal(6, *SHAPE), normal(6, prior.bound_noise_size)
    everything, part = prior(u, noise), prior(u[2:4], noise[2:4])
    np.testing.assert_allclose(everything.diffusion[2:4], part.diffusion, rtol=1e-4)


def test_dropout_is_on_in_training_alone(make_prior):
    prior = make_prior(dropout=0.5)
    for index, weight in enumerate(prior.trainable_variables):
        weight.assign_add(0.1 * normal(*weight.shape, seed=index))
    u, noise = normal(4, *SHAPE), normal(4, prior.bound_noise_size)
    np.testing.assert_array_equal(prior(u, noise).diffusion, prior(u, noise).diffusion)
    assert np.abs(prior(u, noise, training=True).diffusion - prior(u, noise).diffusion).max() > 1e-3


def test_bfloat16_is_for_the_network_alone(make_gaussian_prior):
    exact, mixed = make_gaussian_prior(), make_gaussian_prior(dtype="mixed_bfloat16")
    u, noise = normal(4, *SHAPE), normal(4, exact.bound_noise_size)
    for expected, actual in zip(exact(u, noise), mixed(u, noise), strict=True):
        np.testing.assert_array_equal(actual, expected)
    noise = normal(4, exact.sample_noise_size())
    np.testing.assert_array_equal(mixed.sample(noise), exact.sample(noise))
    assert mixed.unet.conv_in.compute_dtype == "bfloat16"


# T steps at once


def shake(prior):
    """Gives the network weights that predict something."""
    for index, weight in enumerate(prior.trainable_variables):
        weight.assign_add(0.1 * normal(*weight.shape, seed=index))


def log_prob(value, mean, deviation):
    return stats.norm(np.float64(mean), np.float64(deviation)).logpdf(np.float64(value)).sum(axis=(1, 2, 3))


@pytest.mark.parametrize(("steps", "clip"), [(1, True), (4, True), (4, False), (60, True)])
def test_a_trajectory_is_estimated_as_its_steps_are_one_by_one(make_prior, steps, clip):
    """Each density by SciPy, each step by Eq. 26 to 29 and a network pass of its own."""
    prior = make_prior(clip=clip)
    shake(prior)
    u, noise = normal(6, *SHAPE).numpy(), normal(6, prior.estimate_noise_size(steps), seed=1).numpy()
    estimate = prior.estimate(u, noise, steps)

    fresh = noise.reshape(6, steps + 1, *SHAPE)
    (alpha_squared, sigma_squared) = squares(prior, 1.0)
    of_q = alpha_squared**0.5 * u, sigma_squared**0.5
    y = of_q[0] + of_q[1] * fresh[:, 0]
    weight, kl = log_prob(y, 0, 1) - log_prob(y, *of_q), 0.0
    for i in range(steps):
        predicted = prior.predict_u(tf.cast(y, tf.float32), tf.fill([6], 1 - i / steps)).numpy()
        (at, st), (as_, ss) = squares(prior, 1 - i / steps), squares(prior, 1 - (i + 1) / steps)
        deviation = ((as_ - at) / as_ * ss / st) ** 0.5  # Eq. 28
        means = [(at / as_) ** 0.5 * ss / st * y + (as_ - at) / (st * as_**0.5) * of for of in (u, predicted)]  # Eq. 27
        y = means[0] + deviation * fresh[:, i + 1]
        weight += log_prob(y, means[1], deviation) - log_prob(y, means[0], deviation)
        kl += tfd.kl_divergence(tfd.Normal(means[0], deviation), tfd.Normal(means[1], deviation)).numpy().sum((1, 2, 3))
    alpha_squared, sigma_squared = squares(prior, 0.0)
    weight += log_prob(u, y / alpha_squared**0.5, (sigma_squared / alpha_squared) ** 0.5)

    np.testing.assert_allclose(estimate.log_weight, weight, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(estimate.terms.diffusion, kl, rtol=1e-4)
    np.testing.assert_allclose(
        estimate.terms.reconstruction, [prior.schedule.reconstruction(DIMENSIONS)] * 6, rtol=1e-6
    )
    np.testing.assert_array_equal(estimate.terms.prior_kl, prior.schedule.prior_kl(u))


def test_weights_of_trajectories_average_to_the_density_of_the_process(make_gaussian_prior):
    """E_q exp(log_weight) = r(u), which is Gaussian here (the recursion above); log_weight itself averages to less."""
    prior, steps, rows = make_gaussian_prior(gamma_min=-3.0, gamma_max=4.0), 6, 50_000
    u = np.linspace(0.3, 0.9, DIMENSIONS, dtype="float32").reshape(SHAPE)
    noise = normal(rows, prior.estimate_noise_size(steps))
    estimate = prior.estimate(np.tile(u, (rows, 1, 1, 1)), noise, steps)
    log_weight = estimate.log_weight.numpy().astype("float64")
    mean, variance = moments_of_ancestral_sampling(prior, steps, 1.0)
    expected = stats.norm(mean, variance**0.5).logpdf(u).sum()
    weights = np.exp(log_weight - expected)
    assert weights.std() / np.sqrt(rows) < 0.02
    assert abs(weights.mean() - 1) < 4 * weights.std() / np.sqrt(rows)
    totals = -tf.add_n(estimate.terms).numpy()
    error = np.hypot(log_weight.std(), totals.std()) / np.sqrt(rows)
    assert abs(log_weight.mean() - totals.mean()) < 4 * error
    assert totals.mean() < expected - 0.1


def test_the_bound_of_many_steps_is_that_of_continuous_time(make_gaussian_prior):
    prior, rows = make_gaussian_prior(), 4000
    u = MEAN + VARIANCE**0.5 * normal(rows, *SHAPE, seed=9)
    many = prior.diffusion_loss(u, (np.arange(rows, dtype="float32") + 0.5) / rows, normal(rows, *SHAPE)).numpy()
    losses = []
    for steps in (4, 16, 64, 256):
        noise = normal(rows, prior.estimate_noise_size(steps), seed=steps)
        losses.append(prior.estimate(u, noise, steps).terms.diffusion.numpy())
    gaps = [loss.mean() - many.mean() for loss in losses]
    error = np.hypot(many.std(), losses[-1].std()) / np.sqrt(rows)
    # At four times the steps the gap is about a quarter.
    assert gaps[0] > 20 * error and 0.1 * gaps[0] < gaps[1] < 0.4 * gaps[0]
    assert gaps[2] < 0.1 * gaps[0] + 4 * error and abs(gaps[3]) < gaps[0] / 32 + 4 * error


def test_the_published_terms_is_the_sum_at_the_right_ends(make_prior):
    prior, steps = make_prior(), 5
    shake(prior)
    u, noise = normal(3, *SHAPE), normal(3, steps * DIMENSIONS, seed=1)
    terms = prior.published_terms(u, noise, steps)
    noises = tf.reshape(noise, [3, steps, *SHAPE])
    losses = [prior.diffusion_loss(u, tf.fill([3], (i + 1) / steps), noises[:, i]) for i in range(steps)]
    np.testing.assert_allclose(terms.diffusion, np.mean(losses, axis=0), rtol=1e-4)
    np.testing.assert_array_equal(terms.prior_kl, prior.schedule.prior_kl(u))
