"""The mixture and the standard normal prior against SciPy, and their samplers against their densities."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import special, stats

from dvpvae_tf.errors import UserError
from dvpvae_tf.priors import FullMixturePrior, MixturePrior, StandardPrior, fit_full_mixture

SHAPE = (2, 2, 1)


def normal(*shape, seed=0):
    return tf.random.stateless_normal(shape, (seed, 1))


@pytest.fixture
def mixture():
    """Three Gaussians over four elements, far enough from one another to be told apart."""
    prior = MixturePrior(3)
    prior.build((None, *SHAPE))
    prior.means.assign([[-9.0, 0.0, 1.0, 2.0], [0.0, 3.0, -1.0, 0.5], [9.0, -1.0, 0.0, 0.0]])
    prior.log_vars.assign(normal(3, 4) - 1.0)
    return prior


def test_mixture_density_agrees_with_scipy(mixture):
    u = 3.0 * normal(20, *SHAPE, seed=1)
    means, deviations = mixture.means.numpy(), np.exp(0.5 * mixture.log_vars.numpy())
    of_components = [
        stats.norm(mean, deviation).logpdf(u.numpy().reshape(20, 4)).sum(axis=1)
        for mean, deviation in zip(means, deviations, strict=True)
    ]
    expected = -(special.logsumexp(of_components, axis=0) - np.log(3))
    (bound,) = mixture(u)
    assert bound.dtype == "float32" and bound.shape == (20,)
    np.testing.assert_allclose(bound, expected, rtol=1e-5)


def test_mixture_density_integrates_to_one():
    prior = MixturePrior(4)
    prior.build((None, 1, 1, 1))
    prior.log_vars.assign(normal(4, 1) - 1.0)
    grid = np.linspace(-15, 15, 20_001, dtype="float32")
    density = np.exp(-prior(grid.reshape(-1, 1, 1, 1))[0])
    np.testing.assert_allclose(np.trapezoid(density, grid), 1.0, rtol=1e-4)


def test_mixture_draws_joint_components_with_equal_weights(mixture):
    rows = 30_000
    u = mixture.sample(normal(rows, mixture.sample_noise_size(), seed=2)).numpy()
    assert u.shape == (rows, *SHAPE)
    flat, means = u.reshape(rows, 4), mixture.means.numpy()
    component = np.digitize(flat[:, 0], [-4.5, 4.5])
    assert stats.chisquare(np.bincount(component)).pvalue > 0.001
    for index in range(3):
        mine = flat[component == index]
        deviation = np.exp(0.5 * mixture.log_vars.numpy()[index])
        assert (np.abs(mine.mean(axis=0) - means[index]) < 4.5 * deviation / np.sqrt(len(mine))).all()
        assert (np.abs(mine.var(axis=0) / deviation**2 - 1) < 4.5 * np.sqrt(2 / len(mine))).all()
        assert stats.kstest(mine[:, 1], stats.norm(means[index][1], deviation[1]).cdf).pvalue > 0.001


def test_mixture_density_of_its_own_draws_is_its_entropy(mixture):
    """The components hardly overlap: the entropy is their average plus log 3."""
    draws = mixture(mixture.sample(normal(20_000, 5, seed=3)))[0].numpy()
    entropies = 0.5 * (1 + np.log(2 * np.pi) + mixture.log_vars.numpy()).sum(axis=1)
    expected = entropies.mean() + np.log(3)
    assert abs(draws.mean() - expected) < 4 * draws.std() / np.sqrt(len(draws)) + 1e-3


def test_mixture_temperature_keeps_the_component_and_scales_its_noise(mixture):
    noise = normal(50, 5)
    cold, half, whole = (mixture.sample(noise, temperature=t).numpy() for t in (0.0, 0.5, 1.0))
    np.testing.assert_allclose(half - cold, 0.5 * (whole - cold), atol=1e-5)
    assert {tuple(row) for row in cold.reshape(50, 4)} == {tuple(row) for row in mixture.means.numpy()}


def test_mixture_of_extreme_noise_stays_inside(mixture):
    noise = tf.constant([[40.0, 0, 0, 0, 0], [-40.0, 0, 0, 0, 0]])
    np.testing.assert_allclose(mixture.sample(noise)[:, 0, 0, 0], [9.0, -9.0])


def test_mixture_starts_with_components_apart():
    prior = MixturePrior(10)
    prior.build((None, *SHAPE))
    means = prior.means.numpy()
    assert np.abs(means[:, None] - means[None]).max(axis=-1)[~np.eye(10, dtype=bool)].min() > 0.05
    assert not prior.log_vars.numpy().any()
    assert prior.count_params() == 2 * 10 * 4


@pytest.fixture(scope="module")
def full_mixture():
    """Three Gaussians with full covariances, and TensorFlow Probability's of the same."""
    prior, rng = FullMixturePrior(3), np.random.default_rng(0)
    prior.build((None, *SHAPE))
    roots = rng.normal(size=(3, 4, 4))
    weights, covariances = np.array([0.5, 0.3, 0.2]), roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(4)
    means = np.array([[-20.0, 0, 1, 2], [0, 3, -1, 0.5], [20, -1, 0, 0]])
    prior.set_gaussians(weights, means, covariances)
    gaussians = tfp.distributions.MultivariateNormalTriL(means, np.linalg.cholesky(covariances))
    return prior, tfp.distributions.MixtureSameFamily(tfp.distributions.Categorical(probs=weights), gaussians)


def test_full_mixture_density_agrees_with_tensorflow_probability(full_mixture):
    prior, expected = full_mixture
    u = expected.sample(50, seed=1)
    (bound,) = prior(tf.cast(tf.reshape(u, [-1, *SHAPE]), tf.float32))
    assert bound.dtype == "float32" and not prior.trainable_variables
    np.testing.assert_allclose(bound, -expected.log_prob(u), rtol=1e-4)


def test_full_mixture_draws_its_components_at_their_weights_with_their_covariances(full_mixture):
    prior, expected = full_mixture
    noise = normal(30_000, prior.sample_noise_size(), seed=2)
    u = prior.sample(noise).numpy().reshape(-1, 4)
    component = np.digitize(u[:, 0], [-10, 10])
    assert stats.chisquare(np.bincount(component), 30_000 * np.array([0.5, 0.3, 0.2])).pvalue > 0.001
    covariances = expected.components_distribution.covariance().numpy()
    for index, covariance in enumerate(covariances):
        mine = u[component == index]
        np.testing.assert_allclose(np.cov(mine.T), covariance, atol=6 * covariance.max() * np.sqrt(2 / len(mine)))
    cold, half = (prior.sample(noise, temperature=t).numpy().reshape(-1, 4) for t in (0.0, 0.5))
    np.testing.assert_allclose(cold, expected.components_distribution.mean().numpy()[component], atol=1e-5)
    np.testing.assert_allclose(half - cold, 0.5 * (u - cold), atol=1e-4)
    again = FullMixturePrior.from_config(prior.get_config())
    again.build((None, *SHAPE))
    again.set_weights(prior.get_weights())
    np.testing.assert_array_equal(again.sample(noise[5:9]), prior.sample(noise[5:9]))


def test_full_mixture_is_fitted_to_two_clusters(full_mixture):
    _, expected = full_mixture
    u, held_out, test = (np.float32(expected.sample(num, seed=num)).reshape(-1, *SHAPE) for num in (2000, 500, 1000))
    prior = fit_full_mixture(u, held_out, (1, 2, 3, 4, 5), verbose=0)
    assert prior.components == 3  # what the draws come from, chosen on the held-out ones
    np.testing.assert_allclose(fit_full_mixture(u, held_out, (3,), verbose=0).means, prior.means, rtol=1e-5)
    excess = prior(test)[0].numpy() + expected.log_prob(test.reshape(-1, 4)).numpy()
    assert abs(np.mean(excess)) < 0.05


def test_full_mixture_of_constant_elements_is_regular_and_one_of_nan_is_refused():
    u = np.zeros((40, *SHAPE), "float32")
    prior = fit_full_mixture(u, u, (1, 2), verbose=0)
    assert np.isfinite(prior(u)[0]).all()
    with pytest.raises(UserError, match="not finite"):
        fit_full_mixture(u * np.nan, u, verbose=0)
    with pytest.raises(UserError, match="not finite"):
        fit_full_mixture(u, u * np.nan, verbose=0)


def test_full_mixture_takes_every_seed_of_the_library():
    u = np.random.default_rng(0).normal(size=(40, *SHAPE)).astype("float32")
    assert np.isfinite(fit_full_mixture(u, u, (2,), seed=-1, verbose=0)(u)[0]).all()


def test_standard_density_and_draws():
    prior, u = StandardPrior(), normal(6, *SHAPE)
    (bound,) = prior(u)
    expected = -stats.norm.logpdf(u.numpy().astype("float64")).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(bound, expected, rtol=1e-5)
    noise = normal(6, prior.sample_noise_size(), seed=1)
    np.testing.assert_array_equal(prior.sample(noise), tf.reshape(noise, (6, *SHAPE)))
    np.testing.assert_allclose(prior.sample(noise, temperature=0.3), 0.3 * prior.sample(noise), rtol=1e-6)
    assert prior.count_params() == 0


@pytest.mark.parametrize("kind", [MixturePrior, StandardPrior])
def test_exact_densities_need_no_noise_and_are_float32(kind):
    prior = kind(dtype="mixed_bfloat16")
    u = normal(3, *SHAPE)
    assert prior(u)[0].dtype == "float32" and prior.compute_dtype == "float32"
    assert prior.bound_noise_size == 0
    assert prior.steps is None and not prior.has_steps and prior.check_steps(None) is None
    with pytest.raises(ValueError, match="no diffusion prior: leave out steps"):
        prior.check_steps(5)
    np.testing.assert_array_equal(prior(u, None)[0], prior.negative_bound(u)[0])
