"""The reverse processes of a diffusion prior: how u is drawn in T steps, and log r(u) estimated (Appendix A).

A process goes from y_1 ~ N(0, I) over T steps to y_0, and from there to u. It knows a noise schedule and a predictor
of u, and nothing of the network behind it.
"""

import abc
import math
import numbers
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from dvpvae_tf.errors import UserError
from dvpvae_tf.layers.gaussian import LOG_2_PI, standard_log_density
from dvpvae_tf.priors.covariances import kind_of
from dvpvae_tf.priors.noise_schedule import LinearNoiseSchedule, over_elements
from dvpvae_tf.priors.terms import DiffusionTerms, PriorEstimate

TIMES_AT_ONCE = 50  # in `estimate`, which bounds the memory
GRID_TIMES = np.linspace(0.0, 1.0, 101)  # that a calibrated process chooses its times from
MOST_CALIBRATED_STEPS = len(GRID_TIMES) - 1


def check_calibrated_steps(steps: int | None) -> None:
    """Checks that a calibrated process can take so many steps.

    Args:
        steps: T; None where it is chosen later.

    Raises:
        UserError: if T is no whole number from 1 to `MOST_CALIBRATED_STEPS`.
    """
    if steps is not None and (not isinstance(steps, numbers.Integral) or steps < 1):
        raise UserError(f"a calibrated process takes a whole number of steps from 1 on, not {steps!r}")
    if steps is not None and steps > MOST_CALIBRATED_STEPS:
        raise UserError(
            f"a calibrated process takes {MOST_CALIBRATED_STEPS} steps at most, not {steps}; the ancestral process "
            "(--ancestral) takes any number"
        )


class ReverseProcess(abc.ABC):
    """What both processes share: the means of the steps (Eq. 27), and the walk over them.

    Args:
        schedule: gamma(t).
        predict_u: gives u_hat from y_t, float32 `[N, d, d, C]`, and times, float32 `[N]` or `[1]`.
        shape: `(d, d, C)`, the shape of u.
        steps: T.
    """

    name: str

    def __init__(
        self,
        schedule: LinearNoiseSchedule,
        predict_u: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        shape: tuple[int, int, int],
        steps: int,
    ):
        self.schedule = schedule
        self.predict_u = predict_u
        self.shape = tuple(shape)
        self.steps = steps

    @property
    def sample_noise_size(self) -> int:
        """How many normal numbers a row `sample` takes."""
        return (2 + self.steps) * math.prod(self.shape)

    @property
    def estimate_noise_size(self) -> int:
        """How many normal numbers a row `estimate` takes."""
        return (1 + self.steps) * math.prod(self.shape)

    def sample(self, noise: tf.Tensor, temperature: float | tf.Tensor = 1.0) -> tf.Tensor:
        """Draws pseudoinputs: y_1 from N(0, I), T steps, then u (Eq. 29, 30).

        Args:
            noise: float32 `[N, sample_noise_size]`, standard normal.
            temperature: a number, or a tensor that broadcasts against u: the factor of the standard deviation of the
                noise of each step and of u. y_1 is not scaled.

        Returns:
            float32 `[N, d, d, C]`.
        """
        noise = tf.reshape(noise, [-1, self.steps + 2, *self.shape])
        coloured = self._colour_steps(noise[:, 1:-1])
        sources, targets = self._times()

        def step(i: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            source, target = sources[i, tf.newaxis], targets[i, tf.newaxis]  # one for all rows: embedded once
            mean, deviation = self.schedule.posterior(
                y, self.predict_u(y, source), over_elements(source), over_elements(target)
            )
            return i + 1, mean + temperature * deviation * coloured[:, i]

        _, y = tf.while_loop(lambda i, y: i < self.steps, step, (0, noise[:, 0]))
        return self._last_mean(y) + temperature * self._colour_last(noise[:, -1])

    def estimate(self, u: tf.Tensor, noise: tf.Tensor) -> PriorEstimate:
        """Estimates log r(u) of the process that `sample` runs, clip included, from one trajectory a row (Eq. 31).

        The posterior and the model's step have the means c alpha_s u and c alpha_s u_hat apart from what they share
        (Eq. 27). A trajectory is known once its noise is, so no step waits for another.

        Args:
            u: float32 `[N, d, d, C]`.
            noise: float32 `[N, estimate_noise_size]`, standard normal.

        Returns:
            The terms and the log-weight, nats; the mean of minus the log-weight is that of the sum of the terms.
        """
        fresh = tf.reshape(noise, [-1, 1 + self.steps, *self.shape])
        noises = self.schedule.trajectory(fresh, self._gamma())  # n_t of y_t = alpha_t u + sigma_t n_t
        predicted = self._predict_along(u, noises[:, :-1])
        scales = tf.cast(tf.sqrt(self._gain())[:, tf.newaxis, tf.newaxis, tf.newaxis], tf.float32)
        kl, steps_weight = self._compare((u[:, tf.newaxis] - predicted) * scales, fresh[:, 1:])
        reconstruction, last_weight = self._estimate_last(u, noises[:, -1])
        terms = DiffusionTerms(kl, reconstruction, self.schedule.prior_kl(u))
        return PriorEstimate(terms, self._first_weight(u, noises[:, 0]) + steps_weight + last_weight)

    def _gain(self) -> tf.Tensor:
        """SNR(s) - SNR(t) of each step, float64 `[T]`."""
        snr = tf.exp(-self._gamma())
        return snr[1:] - snr[:-1]

    def _predict_along(self, u: tf.Tensor, noises: tf.Tensor) -> tf.Tensor:
        """u_hat at the source of each step, `[N, T, d, d, C]`; the network sees 50 times of a row at once."""
        starts, sources = range(0, self.steps, TIMES_AT_ONCE), self._times()[0]
        parts = [slice(start, min(start + TIMES_AT_ONCE, self.steps)) for start in starts]
        return tf.concat([self._predict_at(u, noises[:, part], sources[part]) for part in parts], axis=1)

    def _predict_at(self, u: tf.Tensor, noises: tf.Tensor, times: tf.Tensor) -> tf.Tensor:
        times = tf.reshape(tf.broadcast_to(times, tf.shape(noises)[:2]), [-1])
        u = tf.broadcast_to(u[:, tf.newaxis], tf.shape(noises))
        u, noise = (tf.reshape(value, [-1, *self.shape]) for value in (u, noises))
        predicted = self.predict_u(self.schedule.diffuse(u, over_elements(times), noise), times)
        return tf.reshape(predicted, [-1, noises.shape[1], *self.shape])

    def _first_weight(self, u: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Gives log p(y_1) - log q(y_1|u), `[N]`; they share their constants."""
        time = tf.constant(1.0)
        y = self.schedule.diffuse(u, time, noise)
        return _sum(0.5 * (tf.square(noise) - tf.square(y)) + tf.math.log(self.schedule.sigma(time)))

    @abc.abstractmethod
    def _times(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The times t and s of the steps, float32 `[T]` each."""

    @abc.abstractmethod
    def _gamma(self) -> tf.Tensor:
        """Minus the log signal-to-noise ratio at the times from 1 to 0, float64 `[T + 1]`."""

    @abc.abstractmethod
    def _colour_steps(self, noise: tf.Tensor) -> tf.Tensor:
        """The noise of the steps in units of the deviation of Eq. 28, from standard normal `[N, T, d, d, C]`."""

    @abc.abstractmethod
    def _last_mean(self, y: tf.Tensor) -> tf.Tensor:
        """The mean of u given y_0."""

    @abc.abstractmethod
    def _colour_last(self, noise: tf.Tensor) -> tf.Tensor:
        """The noise of u given y_0, from standard normal noise like u."""

    @abc.abstractmethod
    def _compare(self, distance: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The sums over the steps of KL(q || p) and of log p - log q, `[N]` each.

        Both arguments are `[N, T, d, d, C]` in units of the deviation of Eq. 28: the mean of q minus that of p, and the
        noise of y_s around the mean of q.
        """

    @abc.abstractmethod
    def _estimate_last(self, u: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The term -E log r(u|y_0) and the weight log r(u|y_0), `[N]` each; `noise` is that of y_0."""


class AncestralProcess(ReverseProcess):
    """The paper's process: T equal steps with the variance of Eq. 28, then u from r(u|y_0) of Eq. 30.

    Takes the arguments of `ReverseProcess`.
    """

    name = "ancestral"

    def _times(self) -> tuple[tf.Tensor, tf.Tensor]:
        sources = 1.0 - tf.range(self.steps, dtype=tf.float32) / self.steps
        return sources, tf.maximum(sources - 1.0 / self.steps, 0.0)

    def _gamma(self) -> tf.Tensor:
        return tf.constant(self.schedule.gamma(np.linspace(1.0, 0.0, self.steps + 1)), tf.float64)

    def _colour_steps(self, noise: tf.Tensor) -> tf.Tensor:
        return noise

    def _last_mean(self, y: tf.Tensor) -> tf.Tensor:
        return y / self.schedule.alpha(tf.constant(0.0))

    def _colour_last(self, noise: tf.Tensor) -> tf.Tensor:
        return math.exp(0.5 * self.schedule.gamma_min) * noise

    def _compare(self, distance: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        kl = 0.5 * _sum(tf.square(distance))
        return kl, -kl - _sum(distance * noise)

    def _estimate_last(self, u: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        weight = _sum(-0.5 * (tf.square(noise) + LOG_2_PI + self.schedule.gamma_min))
        return tf.zeros_like(weight) + self.schedule.reconstruction(math.prod(self.shape)), weight


class CalibratedProcess(ReverseProcess):
    """T steps at the best times, with the covariance that the errors of the prediction have, then u from N(u_hat, C_0).

    The step from t to s has the mean of Eq. 27 and the covariance sigma_q^2 (I + (SNR(s) - SNR(t)) C_t), sigma_q^2
    being that of Eq. 28 and C_t = E[(u - u_hat)(u - u_hat)^T] at time t over training images. Of all Gaussians with
    this mean it has the least expected KL from q(y_s|y_t, u).

    Args:
        *arguments: passed to `ReverseProcess`; T is at most `MOST_CALIBRATED_STEPS`.
        covariances: float32 `[101, width]`, C_t at `GRID_TIMES`, packed as `kind_of(P)` does.
        paths: integers `[100, 101]`: row T - 1 starts with the places of the T + 1 times in the grid, from 1 to 0.

    Source: covariances as in Bao et al., "Analytic-DPM", ICLR 2022, here of the whole vector; times as in Watson et
        al., "Learning to efficiently sample from diffusion probabilistic models", 2021.
    """

    name = "calibrated"

    def __init__(self, *arguments, covariances: tf.Tensor, paths: tf.Tensor):
        super().__init__(*arguments)
        self.covariances = tf.convert_to_tensor(covariances)
        self.path = tf.cast(paths[self.steps - 1, : self.steps + 1], tf.int32)

    def _times(self) -> tuple[tf.Tensor, tf.Tensor]:
        times = tf.gather(tf.constant(GRID_TIMES, tf.float32), self.path)
        return times[:-1], times[1:]

    def _gamma(self) -> tf.Tensor:
        return tf.gather(tf.constant(self.schedule.gamma(GRID_TIMES), tf.float64), self.path)

    @property
    def _step_covariances(self):
        """V of each step."""
        rows = tf.gather(self.covariances, self.path[:-1])
        return kind_of(math.prod(self.shape)).of_steps(rows, self._gain())

    @property
    def _last_covariance(self):
        """C_0, the covariance of u given y_0."""
        kind = kind_of(math.prod(self.shape))
        return kind(kind.unpack(self.covariances[:1]))

    def _colour_steps(self, noise: tf.Tensor) -> tf.Tensor:
        return tf.reshape(self._step_covariances.colour(self._flat(noise)), tf.shape(noise))

    def _last_mean(self, y: tf.Tensor) -> tf.Tensor:
        return self.predict_u(y, tf.zeros([1]))

    def _colour_last(self, noise: tf.Tensor) -> tf.Tensor:
        return tf.reshape(self._last_covariance.colour(self._flat(noise[:, tf.newaxis])), tf.shape(noise))

    def _compare(self, distance: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        distance, noise, covariances = self._flat(distance), self._flat(noise), self._step_covariances
        log_dets = tf.reduce_sum(covariances.half_log_det)
        traces = tf.reduce_sum(covariances.trace_of_inverse) - self.steps * math.prod(self.shape)
        kl = log_dets + 0.5 * (traces + _sum(tf.square(covariances.whiten(distance))))
        return kl, 0.5 * (_sum(tf.square(noise)) - _sum(tf.square(covariances.whiten(noise + distance)))) - log_dets

    def _estimate_last(self, u: tf.Tensor, noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        predicted = self.predict_u(self.schedule.diffuse(u, tf.constant(0.0), noise), tf.zeros([1]))
        covariance = self._last_covariance
        whitened = covariance.whiten(self._flat((u - predicted)[:, tf.newaxis]))
        weight = _sum(standard_log_density(whitened)) - covariance.half_log_det[0]
        return -weight, weight

    def _flat(self, values: tf.Tensor) -> tf.Tensor:
        """`[N, K, d, d, C]` as `[N, K, P]`."""
        return tf.reshape(values, [-1, values.shape[1], math.prod(self.shape)])


def _sum(values: tf.Tensor) -> tf.Tensor:
    """The sum over all but the rows, `[N]`."""
    return tf.reduce_sum(values, axis=list(range(1, len(values.shape))))
