"""The noise schedule against Eq. 25 to 28 in double precision."""

import numpy as np
import pytest
import tensorflow as tf

from dvpvae_tf.priors.noise_schedule import LinearNoiseSchedule

RANGES = [(-6.0, 7.0), (-10.0, 7.0), (-1.0, 0.5)]


@pytest.fixture(params=RANGES)
def schedule(request):
    return LinearNoiseSchedule(*request.param)


def alpha_squared(schedule, time):
    gamma = schedule.gamma_min + (schedule.gamma_max - schedule.gamma_min) * np.float64(time)
    return 1 / (1 + np.exp(gamma))


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_a_trajectory_is_eq_27_and_28_step_by_step(schedule, steps):
    noise = np.random.default_rng(0).normal(size=(3, steps + 1, 2, 2, 1))
    u, times = 0.4, 1 - np.arange(steps + 1) / steps
    y = [alpha_squared(schedule, 1.0) ** 0.5 * u + (1 - alpha_squared(schedule, 1.0)) ** 0.5 * noise[:, 0]]
    for i in range(1, steps + 1):
        at, as_ = (alpha_squared(schedule, time) for time in times[i - 1 : i + 1])
        mean = (at / as_) ** 0.5 * (1 - as_) / (1 - at) * y[-1] + (as_ - at) / ((1 - at) * as_**0.5) * u
        y.append(mean + ((as_ - at) / as_ * (1 - as_) / (1 - at)) ** 0.5 * noise[:, i])
    states = schedule.trajectory(
        tf.constant(noise, tf.float32), schedule.gamma(np.linspace(1.0, 0.0, steps + 1))
    ).numpy()
    for i, time in enumerate(times):
        squared = alpha_squared(schedule, time)
        of_state = squared**0.5 * u + (1 - squared) ** 0.5 * states[:, i]
        np.testing.assert_allclose(of_state, y[i], rtol=1e-4, atol=1e-5)


TIMES = np.linspace(0, 1, 33, dtype="float32")


def test_gamma_is_linear_and_minus_the_log_signal_to_noise_ratio(schedule):
    alpha, sigma = schedule.alpha(TIMES).numpy(), schedule.sigma(TIMES).numpy()
    np.testing.assert_allclose(-np.log(alpha**2 / sigma**2), schedule.gamma(TIMES), atol=1e-4)
    assert (schedule.gamma(0.0), schedule.gamma(1.0)) == (schedule.gamma_min, schedule.gamma_max)
    np.testing.assert_allclose(np.diff(schedule.gamma(TIMES)) * 32, schedule.slope, rtol=1e-4)


def test_alpha_squared_and_sigma_squared_sum_to_one(schedule):
    alpha, sigma = schedule.alpha(TIMES), schedule.sigma(TIMES)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-6)
    np.testing.assert_allclose(alpha**2, alpha_squared(schedule, TIMES), rtol=1e-5)


def test_diffuse_gives_the_moments_of_eq_25(schedule):
    u, time = np.full((50_000, 1, 1, 1), 0.7, "float32"), np.float32(0.4)
    noise = tf.random.stateless_normal(u.shape, (0, 0))
    y = schedule.diffuse(u, tf.constant(time), noise).numpy()
    squared = alpha_squared(schedule, time)
    standard_error = np.sqrt((1 - squared) / len(u))
    assert abs(y.mean() - np.sqrt(squared) * 0.7) < 4 * standard_error
    assert abs(y.var() / (1 - squared) - 1) < 4 * np.sqrt(2 / len(u))


def test_posterior_agrees_with_eq_27_and_28(schedule):
    rng = np.random.default_rng(0)
    y, u = rng.normal(size=(2, 6, 2, 2, 1))
    target = np.array([0.0, 0.0, 0.1, 0.48, 0.7, 0.96], "float32").reshape(-1, 1, 1, 1)
    source = np.array([0.02, 1.0, 0.5, 0.5, 0.72, 1.0], "float32").reshape(-1, 1, 1, 1)
    at_t, at_s = alpha_squared(schedule, source), alpha_squared(schedule, target)
    of_y = np.sqrt(at_t / at_s) * (1 - at_s) / (1 - at_t)
    of_u = (at_s - at_t) / ((1 - at_t) * np.sqrt(at_s))
    variance = (at_s - at_t) / at_s * (1 - at_s) / (1 - at_t)
    mean, deviation = schedule.posterior(*(np.float32(value) for value in (y, u, source, target)))
    np.testing.assert_allclose(mean, of_y * y + of_u * u, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.square(deviation), variance, rtol=1e-4)


def test_posterior_is_bayes_rule(schedule):
    """A draw of y_s from q(y_s|u), of y_t from q(y_t|y_s), then of y_s again: the same moments as at first."""
    source, target, u = tf.constant(0.6), tf.constant(0.35), tf.constant(0.8)
    first, second, third = tf.unstack(tf.random.stateless_normal((3, 100_000), (1, 2)))
    ys = schedule.diffuse(u, target, first)
    ratio = schedule.alpha(source) / schedule.alpha(target)
    yt = ratio * ys + tf.sqrt(schedule.sigma(source) ** 2 - ratio**2 * schedule.sigma(target) ** 2) * second
    mean, deviation = schedule.posterior(yt, u, source, target)
    again = (mean + deviation * third).numpy()
    error = schedule.sigma(target).numpy() / np.sqrt(len(again))
    assert abs(again.mean() - (schedule.alpha(target) * u).numpy()) < 4 * error
    assert abs(again.var() / schedule.sigma(target).numpy() ** 2 - 1) < 4 * np.sqrt(2 / len(again))
    first_moment = np.mean(ys.numpy() * yt.numpy())
    assert abs(np.mean(again * yt.numpy()) - first_moment) < 6 * error


def test_a_range_the_wrong_way_round_is_refused():
    with pytest.raises(ValueError, match="gamma_min must be below gamma_max, got 7.0 and -6.0"):
        LinearNoiseSchedule(7.0, -6.0)
