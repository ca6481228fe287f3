"""The calibrated process where the answer is known: correlated Gaussian pseudoinputs, whose best denoiser is linear."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from dvpvae_tf.priors import DiffusionPrior, calibration, covariances
from dvpvae_tf.priors.noise_schedule import LinearNoiseSchedule
from dvpvae_tf.priors.process import GRID_TIMES, CalibratedProcess

SHAPE = (3, 3, 1)
SIZE = math.prod(SHAPE)
SCHEDULE = LinearNoiseSchedule(-6.0, 7.0)
SNR = np.exp(-SCHEDULE.gamma(GRID_TIMES))


def random_covariances(num, seed=0):
    roots = 0.3 * np.random.default_rng(seed).normal(size=(num, SIZE, SIZE))
    return roots @ roots.transpose(0, 2, 1) + 0.02 * np.eye(SIZE)


COVARIANCE = random_covariances(1)[0]  # of u
ENTROPY = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * COVARIANCE)[1]


def normal(*shape, seed=0):
    return tf.random.stateless_normal(shape, (seed, 1))


def draws(num, seed):
    u = np.random.default_rng(seed).multivariate_normal(np.zeros(SIZE), COVARIANCE, num)
    return u.reshape(-1, *SHAPE).astype("float32")


def best_prediction(y, time):
    """E[u|y_t]."""
    gamma = tf.cast(SCHEDULE.gamma(time), tf.float64)[:, tf.newaxis, tf.newaxis]
    alpha, sigma_squared, eye = tf.sqrt(tf.sigmoid(-gamma)), tf.sigmoid(gamma), tf.eye(SIZE, dtype=tf.float64)
    gain = alpha * COVARIANCE @ tf.linalg.inv(alpha**2 * COVARIANCE + sigma_squared * eye)
    flat = tf.cast(tf.reshape(y, [-1, SIZE]), tf.float64)
    return tf.reshape(tf.cast(tf.linalg.matvec(gain, flat), tf.float32), [-1, *SHAPE])


def make_prior(predict_u=best_prediction, **kwargs):
    prior = DiffusionPrior(16, 1, clip=False, **kwargs)
    prior.build((None, *SHAPE))
    prior.predict_u = predict_u
    return prior


@pytest.fixture(scope="module")
def calibrated():
    """A prior with the best denoiser, and what its calibration found."""
    prior = make_prior()
    return prior, prior.calibrate(draws(4000, 1), draws(4000, 2))


def test_with_the_best_denoiser_the_process_is_exact_at_every_t_where_the_ancestral_one_is_not():
    """E[-log r(u)] at most is then the entropy of u and KL(q(y_1) || N(0, I)), all in closed form."""
    alpha_squared = 1 / (1 + np.exp(7.0))
    of_last = alpha_squared * COVARIANCE + (1 - alpha_squared) * np.eye(SIZE)
    exact = ENTROPY + 0.5 * (np.trace(of_last) - SIZE - np.linalg.slogdet(of_last)[1])
    first = 0.5 * (alpha_squared * np.trace(COVARIANCE) - SIZE * (alpha_squared + np.log1p(-alpha_squared)))
    errors = np.linalg.inv(np.linalg.inv(COVARIANCE) + SNR[:, None, None] * np.eye(SIZE))
    paths, bounds = calibration._fit(SCHEDULE, errors, errors)
    np.testing.assert_allclose(first + bounds[[0, 1, 4]], exact, atol=1e-3)
    for steps in (1, 2, 5):
        times = np.linspace(1, 0, steps + 1)
        snr = np.exp(-SCHEDULE.gamma(times))
        traces = np.trace(np.linalg.inv(np.linalg.inv(COVARIANCE) + snr[:-1, None, None] * np.eye(SIZE)), 0, 1, 2)
        ancestral = first + 0.5 * np.sum(np.diff(snr) * traces) + SCHEDULE.reconstruction(SIZE)
        assert ancestral > exact + 5
    assert paths[0, 0] == 100 and paths[0, 1] == 0


def table_of(matrices):
    return covariances.FullCovariances.pack(matrices)


def test_a_trajectory_weighs_what_its_densities_say_and_is_what_sample_draws():
    """Each step by Eq. 27, 28 and TensorFlow Probability, on covariances and a predictor that no fit gave."""
    steps, path = 4, [100, 71, 40, 8, 0]
    paths = np.zeros((100, 101), "uint8")
    paths[steps - 1, : steps + 1] = path
    matrices = random_covariances(101, seed=3)

    def predict_u(y, time):
        return 0.5 * tf.tanh(y + tf.reshape(time, [-1, 1, 1, 1]))

    process = CalibratedProcess(SCHEDULE, predict_u, SHAPE, steps, covariances=table_of(matrices), paths=paths)
    u, noise = np.float64(draws(5, 4)), np.float64(normal(5, process.estimate_noise_size))
    weight = along_trajectory(predict_u, path, matrices, u, noise.reshape(5, steps + 1, SIZE))
    estimate = process.estimate(tf.constant(u, tf.float32), tf.constant(noise, tf.float32))
    np.testing.assert_allclose(estimate.log_weight, weight, rtol=1e-4, atol=1e-3)

    noise = normal(5, process.sample_noise_size)
    fresh, y = np.float64(noise).reshape(5, steps + 2, SIZE), np.float64(noise)[:, :SIZE]
    for i, (t, s) in enumerate(itertools.pairwise(path)):
        of_y, of_u, covariance = step_of(t, s, matrices[t])
        mean = of_y * y + of_u * flat_prediction(predict_u, y, t)
        y = mean + 0.6 * fresh[:, i + 1] @ np.linalg.cholesky(covariance).T
    expected = flat_prediction(predict_u, y, 0) + 0.6 * fresh[:, -1] @ np.linalg.cholesky(matrices[0]).T
    np.testing.assert_allclose(process.sample(noise, 0.6).numpy().reshape(5, SIZE), expected, rtol=1e-3, atol=1e-4)


def flat_prediction(predict_u, y, place):
    y = tf.constant(y.reshape(-1, *SHAPE), tf.float32)
    return np.float64(predict_u(y, tf.constant(GRID_TIMES[[place]], tf.float32))).reshape(-1, SIZE)


def step_of(t, s, matrix):
    """The factors of y_t and of u in the mean of a step (Eq. 27), and its covariance."""
    at, as_ = (SNR[place] / (1 + SNR[place]) for place in (t, s))
    of_y, of_u = np.sqrt(at / as_) * (1 - as_) / (1 - at), (as_ - at) / ((1 - at) * np.sqrt(as_))
    variance = (as_ - at) / as_ * (1 - as_) / (1 - at)  # Eq. 28
    return of_y, of_u, variance * (np.eye(SIZE) + (SNR[s] - SNR[t]) * matrix)


def log_density(mean, covariance, value):
    return tfp.distributions.MultivariateNormalTriL(mean, np.linalg.cholesky(covariance)).log_prob(value).numpy()


def along_trajectory(predict_u, path, matrices, u, noise):
    u, eye = u.reshape(-1, SIZE), np.eye(SIZE)
    alpha_squared = SNR[-1] / (1 + SNR[-1])
    y = np.sqrt(alpha_squared) * u + np.sqrt(1 - alpha_squared) * noise[:, 0]
    weight = log_density(np.zeros(SIZE), eye, y) - log_density(np.sqrt(alpha_squared) * u, (1 - alpha_squared) * eye, y)
    for i, (t, s) in enumerate(itertools.pairwise(path)):
        of_y, of_u, covariance = step_of(t, s, matrices[t])
        of_q = step_of(t, s, 0 * eye)[2]
        predicted = flat_prediction(predict_u, y, t)
        means = of_y * y + of_u * u, of_y * y + of_u * predicted
        y = means[0] + np.sqrt(of_q[0, 0]) * noise[:, i + 1]
        weight += log_density(means[1], covariance, y) - log_density(means[0], of_q, y)
    return weight + log_density(flat_prediction(predict_u, y, 0), matrices[0], u)


def test_the_paths_are_the_cheapest_ones_and_a_finer_grid_gives_no_dearer_ones():
    values = np.sort(np.random.default_rng(0).gamma(1.0, size=(9, 4)), axis=0)
    snr = np.exp(-np.linspace(-3, 3, 9))
    costs = calibration.step_costs(values, snr)
    paths = calibration.best_paths(costs)

    def cost(path):
        return sum(costs[t, s] for t, s in itertools.pairwise(path))

    for steps in range(1, 9):
        between = (tuple(sorted(c, reverse=True)) for n in range(steps) for c in itertools.combinations(range(1, 8), n))
        best = min(cost((8, *middle, 0)) for middle in between)
        assert cost(paths[steps - 1, : steps + 1]) == pytest.approx(best)
    coarse = calibration.step_costs(values[::2], snr[::2])
    for steps in range(1, 5):
        path = calibration.best_paths(coarse)[steps - 1, : steps + 1]
        assert cost(paths[steps - 1, : steps + 1]) <= sum(coarse[t, s] for t, s in itertools.pairwise(path)) + 1e-9


def test_estimated_covariances_come_close_to_the_exact_density(calibrated):
    prior, found = calibrated
    assert prior.steps == found.steps == 1  # as T = 1 is exact
    tolerance = SIZE * (SIZE + 1) / (4 * 4000) + 0.05
    np.testing.assert_allclose(found.negative_bounds[[0, 1, 4, 49]], ENTROPY, atol=tolerance)
    u = draws(3000, 5)
    for steps in (1, 5):
        estimate = prior.estimate(u, normal(3000, prior.estimate_noise_size(steps)), steps)
        exact = -log_density(np.zeros(SIZE), COVARIANCE, np.float64(u).reshape(-1, SIZE))
        excess = -np.float64(estimate.log_weight) - exact
        assert abs(excess.mean()) < tolerance + 4 * excess.std() / np.sqrt(len(u))
        sums = sum(np.float64(term) for term in estimate.terms) - exact
        assert abs(sums.mean() - excess.mean()) < 4 * np.hypot(sums.std(), excess.std()) / np.sqrt(len(u))
        drawn = prior.sample(normal(20_000, prior.sample_noise_size(steps), seed=7), steps).numpy()
        np.testing.assert_allclose(np.cov(drawn.reshape(-1, SIZE).T), COVARIANCE, atol=0.08)


def test_the_same_draws_and_seed_give_the_same_calibration(calibrated):
    again = make_prior().calibrate(draws(4000, 1), draws(4000, 2))
    np.testing.assert_array_equal(again.covariances, calibrated[1].covariances)
    np.testing.assert_array_equal(again.paths, calibrated[1].paths)


def test_without_shrinkage_it_is_never_dearer_than_the_ancestral_process_at_the_same_times():
    def predict_u(y, time):
        return 0.4 * tf.tanh(y)

    errors = calibration.SecondMoments(SCHEDULE, predict_u, SHAPE).of(draws(1000, 1), 0, -3)
    values = np.linalg.eigvalsh(errors)
    for t, s in itertools.combinations(reversed(range(0, 101, 10)), 2):
        ancestral = 0.5 * (SNR[s] - SNR[t]) * np.trace(errors[t])
        assert calibration.step_costs(values, SNR)[t, s] <= ancestral


@pytest.mark.parametrize("full", [True, False])
def test_a_calibrated_prior_is_rebuilt_from_its_config_and_weights(full, monkeypatch):
    if not full:
        monkeypatch.setattr(covariances, "MOST_FULL_ELEMENTS", SIZE - 1)
    prior = DiffusionPrior(16, 1)
    prior.build((None, *SHAPE))
    before = len(prior.weights), prior.process().kind
    found = prior.calibrate(draws(100, 1), draws(100, 2), steps=3)
    assert before == (len(prior.weights) - 2, "ancestral")
    assert (prior.steps, prior.process().kind, found.steps) == (3, "calibrated", 3)
    assert prior.check_steps(1000) == 100
    assert prior.covariances.shape == (101, 45 if full else 9)
    again = DiffusionPrior.from_config(prior.get_config())
    again.build((None, *SHAPE))
    again.set_weights(prior.get_weights())
    for steps in (None, 7):
        noise = normal(3, prior.sample_noise_size(steps))
        np.testing.assert_array_equal(again.sample(noise, steps), prior.sample(noise, steps))
    u, noise = draws(5, 3), normal(5, prior.estimate_noise_size())
    estimate = again.estimate(u, noise)
    assert all(np.isfinite(term).all() for term in (*estimate.terms, estimate.log_weight))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        prior.sample_noise_size(0)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_frequencies_that_are_always_zero_and_a_single_image_leave_covariances_positive(spread):
    """What is left is the noise of r(u|x), of the least variance that it may have."""
    u = spread * draws(200, 1) * np.array([1, 1, 1, 0, 0, 1, 1, 0, 1]).reshape(SHAPE)
    u = (u + np.exp(-6.0) * normal(200, *SHAPE).numpy()).astype("float32")
    prior = DiffusionPrior(16, 1)
    prior.build((None, *SHAPE))
    assert prior.calibrate(u[:100], u[100:], steps=5) is not None
    estimate = prior.estimate(u, normal(200, prior.estimate_noise_size()))
    assert np.isfinite(estimate.log_weight).all()


def test_errors_that_are_not_finite_leave_the_ancestral_process():
    prior = make_prior(lambda y, time: y / tf.zeros_like(y))
    assert prior.calibrate(draws(10, 1), draws(10, 2)) is None
    assert prior.process().kind == "ancestral" and prior.steps == 50
