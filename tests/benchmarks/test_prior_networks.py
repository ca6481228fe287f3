"""The mixture that `benchmarks/prior_networks.py` starts a denoiser from, against integrals and densities of SciPy."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats

from dvpvae_tf.priors import FullMixturePrior

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[-1.0, 0.5], [0.4, -0.3], [0.9, 0.8]])
COVARIANCES = np.array([[[0.20, 0.15], [0.15, 0.20]], [[0.05, -0.02], [-0.02, 0.10]], [[0.30, 0.0], [0.0, 0.04]]])


@pytest.fixture(scope="module")
def script(import_benchmark):
    return import_benchmark("prior_networks")


@pytest.fixture(scope="module")
def posterior(script):
    """q(u|y_t) of three correlated Gaussians over two elements."""
    prior = FullMixturePrior(3)
    prior.build((None, 1, 2, 1))
    prior.set_gaussians(WEIGHTS, MEANS, COVARIANCES)
    return script.MixturePosterior(prior)


def alpha_squared(time):
    """Of the linear schedule from -6 to 7 (Eq. 25); sigma^2 is one minus it."""
    return 1 / (1 + np.exp(-6.0 + 13.0 * time))


def log_density(u, time=None):
    """Of the mixture, or of what becomes of it at `time`."""
    a = 1.0 if time is None else alpha_squared(time)
    parts = [
        np.log(weight) + stats.multivariate_normal(a**0.5 * mean, a * covariance + (1 - a) * np.eye(2)).logpdf(u)
        for weight, mean, covariance in zip(WEIGHTS, MEANS, COVARIANCES, strict=True)
    ]
    return special.logsumexp(parts, axis=0)


def draws(num, seed):
    rng = np.random.default_rng(seed)
    roots = np.linalg.cholesky(COVARIANCES)
    component = rng.choice(3, num, p=WEIGHTS)
    return MEANS[component] + np.einsum("nij,nj->ni", roots[component], rng.normal(size=(num, 2)))


@pytest.mark.parametrize("time", [0.0, 0.2, 0.45, 0.7, 1.0])
def test_the_mean_given_y_is_the_integral_over_u(posterior, time):
    a, rng = alpha_squared(time), np.random.default_rng(1)
    y = np.float32(a**0.5 * draws(20, 0) + (1 - a) ** 0.5 * rng.normal(size=(20, 2)))
    side = np.arange(-5, 5, 0.02)  # much finer than the narrowest Gaussian: the sum is then as good as the integral
    u = np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1).reshape(-1, 2)
    prior = log_density(u)
    found = posterior.mean(tf.constant(y), tf.fill([20], np.float32(time)))
    for row, value in zip(y, found, strict=True):
        weights = special.softmax(prior - 0.5 * np.sum((row - a**0.5 * u) ** 2, axis=1) / (1 - a))
        np.testing.assert_allclose(value, weights @ u, rtol=0, atol=1e-4)


@pytest.mark.parametrize("path", [[100, 0], [100, 45, 0], [100, 80, 55, 30, 10, 0]], ids=len)
def test_steps_that_are_mixtures_make_the_process_exact_whatever_t_is(script, posterior, path):
    """Without a network, or with one that gives zero.

    The steps and the end are then those of the mixture itself: only y_1 is drawn from N(0, I) instead of q(y_1).
    """
    num, each = 20, 50
    u = np.repeat(np.float32(draws(num, 2)), each, axis=0)
    noise = np.random.default_rng(3).normal(size=(num * each, 2 * len(path))).astype("float32")
    denoiser = script.Denoiser(script.ResidualMLP(2, 8), posterior)
    weight = np.float64(script.mixture_estimate_of(denoiser, np.array(path))(tf.constant(u), tf.constant(noise)))
    a = alpha_squared(1.0)
    y = a**0.5 * u + (1 - a) ** 0.5 * noise[:, :2]
    of_y = stats.multivariate_normal([0, 0]).logpdf(y) - log_density(y, 1.0)
    np.testing.assert_allclose(weight, log_density(u) + of_y, rtol=0, atol=1e-4)

    loss = (log_density(u) - weight).reshape(num, each)
    kl = 0.5 * np.sum(a * u[::each] ** 2 - a - np.log1p(-a), axis=1)  # KL(q(y_1|u) || N(0, I))
    error = loss.std(axis=1, ddof=1) / each**0.5
    assert (loss.mean(axis=1) < kl + 4.5 * error).all() and kl.max() < 0.01


def test_a_new_network_leaves_the_mixtures_mean(script, posterior):
    y, time = tf.constant(draws(5, 4), tf.float32), tf.linspace(0.0, 1.0, 5)
    denoiser = script.Denoiser(script.ResidualMLP(2, 8), posterior)
    np.testing.assert_array_equal(denoiser(y, time), posterior.mean(y, time))
