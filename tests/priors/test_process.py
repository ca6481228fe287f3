"""The calibrated process where the answer is known: correlated Gaussian pseudoinputs, whose best denoiser is linear."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import special

from dvpvae_tf.config import load_config
from dvpvae_tf.errors import UserError
from dvpvae_tf.noise import Stream
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
ERRORS = np.linalg.inv(np.linalg.inv(COVARIANCE) + SNR[:, None, None] * np.eye(SIZE))  # C_t of the best prediction
ALPHA_SQUARED = SNR[-1] / (1 + SNR[-1])  # of y_1
COVARIANCE_OF_LAST = ALPHA_SQUARED * COVARIANCE + (1 - ALPHA_SQUARED) * np.eye(SIZE)  # of y_1


def normal(*shape, seed=0):
    return tf.random.stateless_normal(shape, (seed, 1))


def test_a_table_holds_the_lower_triangles_in_the_order_of_saved_models():
    matrices = random_covariances(2).astype("float32")
    rows = covariances.FullCovariances.pack(matrices)
    np.testing.assert_array_equal(tfp.math.fill_triangular(rows), np.tril(matrices))
    unpacked = covariances.FullCovariances.unpack(tf.constant(rows)).numpy()
    np.testing.assert_array_equal(np.tril(unpacked), np.tril(matrices))
    np.testing.assert_array_equal(unpacked, unpacked.transpose(0, 2, 1))


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
    exact = ENTROPY + 0.5 * (np.trace(COVARIANCE_OF_LAST) - SIZE - np.linalg.slogdet(COVARIANCE_OF_LAST)[1])
    first = 0.5 * (ALPHA_SQUARED * np.trace(COVARIANCE) - SIZE * (ALPHA_SQUARED + np.log1p(-ALPHA_SQUARED)))
    paths, bounds = calibration._fit(SCHEDULE, ERRORS, ERRORS)
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


def process_along(path, matrices, predict_u=best_prediction):
    """The calibrated process with these C_t and times, whatever a calibration would choose."""
    steps = len(path) - 1
    paths = np.zeros((100, 101), "uint8")
    paths[steps - 1, : steps + 1] = path
    return CalibratedProcess(SCHEDULE, predict_u, SHAPE, steps, covariances=table_of(matrices), paths=paths)


@pytest.mark.parametrize("path", [[100, 0], [100, 40, 0], [100, 80, 60, 25, 7, 0]], ids=len)
def test_with_the_best_denoiser_each_trajectory_weighs_the_density_of_u_but_for_y_1(path):
    """So `iwae` is log p at every T, for one trajectory and for several."""
    num, samples, zero, eye = 200, 8, np.zeros(SIZE), np.eye(SIZE)
    process = process_along(path, ERRORS)
    u, noise = np.repeat(draws(num, 5), samples, axis=0), normal(num * samples, process.estimate_noise_size)
    weight = np.float64(process.estimate(tf.constant(u), noise).log_weight)
    u = np.float64(u).reshape(-1, SIZE)
    y = np.sqrt(ALPHA_SQUARED) * u + np.sqrt(1 - ALPHA_SQUARED) * np.float64(noise)[:, :SIZE]
    of_y = log_density(zero, eye, y) - log_density(zero, COVARIANCE_OF_LAST, y)
    np.testing.assert_allclose(weight, log_density(zero, COVARIANCE, u) + of_y, rtol=0, atol=1e-4)

    # Of u that is drawn from N(0, I) at t = 1 instead of q(y_1).
    gain = np.sqrt(ALPHA_SQUARED) * COVARIANCE @ np.linalg.inv(COVARIANCE_OF_LAST)
    exact = log_density(zero, gain @ gain.T + ERRORS[-1], u[::samples])
    weights = weight.reshape(num, samples)
    for iwae in (weights[:, 0], special.logsumexp(weights, axis=1) - np.log(samples)):
        gap = exact - iwae
        assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(num) < 0.02


def test_a_trajectory_weighs_what_its_densities_say_and_is_what_sample_draws():
    """Each step by Eq. 27, 28 and TensorFlow Probability, on covariances and a predictor that no fit gave."""
    steps, path = 4, [100, 71, 40, 8, 0]
    matrices = random_covariances(101, seed=3)

    def predict_u(y, time):
        return 0.5 * tf.tanh(y + tf.reshape(time, [-1, 1, 1, 1]))

    process = process_along(path, matrices, predict_u)
    u, noise = np.float64(draws(5, 4)), np.float64(normal(5, process.estimate_noise_size))
    weight = along_trajectory(predict_u, path, matrices, u, noise.reshape(5, steps + 1, SIZE))
    estimate = process.estimate(tf.constant(u, tf.float32), tf.constant(noise, tf.float32))
    np.testing.assert_allclose(estimate.log_weight, weight, rtol=0, atol=1e-4)

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
    y = np.sqrt(ALPHA_SQUARED) * u + np.sqrt(1 - ALPHA_SQUARED) * noise[:, 0]
    weight = log_density(np.zeros(SIZE), eye, y) - log_density(np.sqrt(ALPHA_SQUARED) * u, (1 - ALPHA_SQUARED) * eye, y)
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


def expected_cost(path, matrices, moments):
    """-E log r(u) without the term of y_1, from the covariances of a process and the second moments of its errors."""
    eye, last = np.eye(SIZE), matrices[0]
    total = 0.5 * (np.linalg.slogdet(2 * np.pi * last)[1] + np.trace(np.linalg.solve(last, moments[0])))
    for t, s in itertools.pairwise(path):
        gain = SNR[s] - SNR[t]
        of_step = eye + gain * matrices[t]
        traces = np.trace(np.linalg.solve(of_step, eye + gain * moments[t])) - SIZE
        total += 0.5 * (np.linalg.slogdet(of_step)[1] + traces)
    return total


def test_estimated_covariances_come_close_to_the_exact_density(calibrated):
    """Each covariance that matters costs P(P + 1) / 4N: two do at T = 1, about four where there are many steps."""
    prior, found = calibrated
    assert prior.steps == found.steps == 1  # as T = 1 is exact
    of_one = SIZE * (SIZE + 1) / (4 * 4000)
    tolerance = 5 * of_one  # with the shrinkage that suits the held-out draws

    # On the held-out draws, beside the exact covariances with the same times, draws and noise.
    moments = calibration.SecondMoments(SCHEDULE, best_prediction, SHAPE)
    held_out = moments.of(draws(4000, 2), 0, Stream.CALIBRATION_VALIDATION)
    without_shrinkage = moments.of(draws(4000, 1), 0, Stream.CALIBRATION)
    cost, exact = (expected_cost([100, 0], matrices, held_out) for matrices in (without_shrinkage, ERRORS))
    assert cost - exact == pytest.approx(2 * of_one, abs=1.5 * of_one)
    estimated = covariances.FullCovariances.unpack(tf.constant(found.covariances)).numpy()
    for steps in (1, 2, 5, 50):
        path = found.paths[steps - 1, : steps + 1]
        cost, exact = (expected_cost(path, matrices, held_out) for matrices in (estimated, ERRORS))
        assert found.negative_bounds[steps - 1] == pytest.approx(cost, abs=1e-3)
        assert abs(cost - exact) < tolerance
        assert abs(exact - ENTROPY) < 4 * np.sqrt(SIZE / 4000)  # 4 standard errors of the draws and the noise

    # On new draws, beside their exact densities.
    num, samples = 1000, 8
    u = draws(num, 5)
    of_u = -log_density(np.zeros(SIZE), COVARIANCE, np.float64(u).reshape(-1, SIZE))
    for steps in (1, 2, 5):
        noise = normal(num * samples, prior.estimate_noise_size(steps))
        estimate = prior.estimate(np.repeat(u, samples, axis=0), noise, steps)
        weights = np.float64(estimate.log_weight).reshape(num, samples)
        excess = -weights.mean(axis=1) - of_u
        iwae = np.log(samples) - special.logsumexp(weights, axis=1) - of_u
        for gap in (excess, iwae):
            assert abs(gap.mean()) < tolerance + 4 * gap.std() / np.sqrt(num)
        assert (iwae <= excess + 1e-9).all()
        sums = sum(np.float64(term) for term in estimate.terms).reshape(num, samples).mean(axis=1) - of_u
        assert abs(sums.mean() - excess.mean()) < 4 * np.hypot(sums.std(), excess.std()) / np.sqrt(num)
        drawn = prior.sample(normal(20_000, prior.sample_noise_size(steps), seed=7), steps).numpy()
        np.testing.assert_allclose(np.cov(drawn.reshape(-1, SIZE).T), COVARIANCE, atol=0.08)


def test_the_same_draws_and_seed_give_the_same_calibration(calibrated):
    again = make_prior().calibrate(draws(4000, 1), draws(4000, 2))
    np.testing.assert_array_equal(again.covariances, calibrated[1].covariances)
    np.testing.assert_array_equal(again.paths, calibrated[1].paths)


def errors_of(predict_u):
    """C_t on 1,000 draws, always the same and with the same noise."""
    return calibration.SecondMoments(SCHEDULE, predict_u, SHAPE).of(draws(1000, 1), 0, Stream.CALIBRATION)


def prediction_without_correlations(y, time):
    """E[u_i|y_i] of each element alone."""
    gamma, variances = tf.reshape(SCHEDULE.gamma(time), [-1, 1, 1, 1]), np.diag(COVARIANCE).reshape(SHAPE)
    alpha, variances = tf.sqrt(tf.sigmoid(-gamma)), np.float32(variances)
    return alpha * variances / (alpha**2 * variances + tf.sigmoid(gamma)) * y


def prediction_of_no_fit(y, time):
    return 0.4 * tf.tanh(y)


@pytest.mark.parametrize("predict_u", [best_prediction, prediction_without_correlations, prediction_of_no_fit])
def test_without_shrinkage_no_step_is_dearer_than_the_ancestral_one(predict_u):
    errors = errors_of(predict_u)
    values = np.linalg.eigvalsh(errors)
    for t, s in itertools.combinations(reversed(range(0, 101, 10)), 2):
        ancestral = 0.5 * (SNR[s] - SNR[t]) * np.trace(errors[t])
        assert calibration.step_costs(values, SNR)[t, s] <= ancestral


@pytest.mark.parametrize("predict_u", [best_prediction, prediction_without_correlations])
def test_without_shrinkage_all_steps_and_the_end_are_no_dearer_than_those_of_the_ancestral_process(predict_u):
    """At the same times, on the same draws and noise; u_hat is better than y_0 / alpha_0, the ancestral end's mean."""
    errors = errors_of(predict_u)
    values = np.linalg.eigvalsh(errors)
    costs = calibration.step_costs(values, SNR)
    last = 0.5 * np.sum(np.log(2 * np.pi * np.e * values[0]))
    of_noise = errors_of(lambda y, time: y / SCHEDULE.alpha(time))[0]
    ancestral_last = 0.5 * (SIZE * (np.log(2 * np.pi) - 6) + np.exp(6) * np.trace(of_noise))
    assert ancestral_last == pytest.approx(SCHEDULE.reconstruction(SIZE), abs=4 * np.sqrt(SIZE / 2000))
    assert last < ancestral_last
    for steps in (1, 2, 5, 10, 20, 50, 100):
        path = np.arange(100, -1, -100 // steps)
        traces = np.trace(errors[path[:-1]], axis1=1, axis2=2)
        ancestral = 0.5 * np.sum(np.diff(SNR[path]) * traces) + ancestral_last
        assert costs[path[:-1], path[1:]].sum() + last < ancestral


@pytest.mark.parametrize(("preset", "most_bytes"), [("mnist", 0.6e6), ("cifar10", 4 * 19_448_338 / 10)])
def test_what_a_calibration_adds_to_a_model_is_small(preset, most_bytes):
    """For CIFAR-10 it is less than a tenth of the model's parameters."""
    config = load_config(preset).model
    prior = DiffusionPrior(16, 1, calibrated_steps=10)
    prior.build((None, config.pseudoinput_size, config.pseudoinput_size, config.image_channels))
    tables = prior.covariances.numpy(), prior.paths.numpy()
    size = config.pseudoinput_size**2 * config.image_channels
    assert tables[0].shape == (101, size * (size + 1) // 2), "full covariances"
    assert most_bytes / 2 < sum(table.nbytes for table in tables) < most_bytes


@pytest.mark.parametrize("full", [True, False])
def test_a_calibrated_prior_is_rebuilt_from_its_config_and_weights(full, monkeypatch):
    if not full:
        monkeypatch.setattr(covariances, "MOST_FULL_ELEMENTS", SIZE - 1)
    prior = DiffusionPrior(16, 1)
    prior.build((None, *SHAPE))
    before = len(prior.weights), prior.process().name
    found = prior.calibrate(draws(100, 1), draws(100, 2), steps=3)
    assert before == (len(prior.weights) - 2, "ancestral")
    assert (prior.steps, prior.process().name, found.steps) == (3, "calibrated", 3)
    assert prior.check_steps(100) == 100 and prior.ancestral().check_steps(500) == 500
    for use in (
        prior.check_steps,
        prior.sample_noise_size,
        lambda steps: prior.calibrate(draws(1, 1), draws(1, 2), steps),
    ):
        with pytest.raises(UserError, match="a calibrated process takes 100 steps at most, not 101"):
            use(101)
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
    assert prior.process().name == "ancestral" and prior.steps == 50
