"""The diffusion-based prior over pseudoinputs (Section 3.4, Appendix A)."""

import math

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf.layers.unet import UNet
from dvpvae_tf.noise import to_uniform
from dvpvae_tf.priors.noise_schedule import LinearNoiseSchedule
from dvpvae_tf.priors.terms import DiffusionTerms, TrajectoryScore

LOG_2_PI = math.log(2.0 * math.pi)
STEPS_AT_A_TIME = 50  # in scoring, which bounds the memory


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class DiffusionPrior(keras.layers.Layer):
    """A variational diffusion model as the prior over pseudoinputs (Section 3.4, Appendix A).

    Called as `prior(u, noise)` it gives the continuous-time bound, see `negative_bound`. All tensors are float32; the
    UNet computes in the layer's compute dtype.

    Args:
        channels: int, width of the UNet, divisible by 16.
        blocks: int, residual blocks of the UNet before its middle.
        dropout: float, dropout rate of the UNet.
        gamma_min: float, minus the log signal-to-noise ratio at t = 0.
        gamma_max: float, minus the log signal-to-noise ratio at t = 1.
        steps: int, T: in how many steps it samples and scores unless told otherwise.
        clip: bool, whether predictions of u are clipped to [-1, 1], as they may be where every u lies there.
        **kwargs: passed to `keras.layers.Layer`.
    """

    def __init__(
        self, channels=16, blocks=2, dropout=0.0, gamma_min=-6.0, gamma_max=7.0, steps=50, clip=True, **kwargs
    ):
        super().__init__(autocast=False, **kwargs)
        self.schedule = LinearNoiseSchedule(gamma_min, gamma_max)
        self.steps = steps
        self.clip = clip
        self.unet = UNet(channels, blocks, dropout, dtype=self.dtype_policy, name="unet")

    def build(self, u_shape, noise_shape=None):
        self.shape = tuple(u_shape[1:])
        self.unet.build(tuple(u_shape), (u_shape[0],))

    @property
    def bound_noise_size(self):
        """int, how many normal numbers a row `negative_bound` takes."""
        return 1 + math.prod(self.shape)

    def check_steps(self, steps: int | None) -> int:
        """Gives the number of steps to take.

        Args:
            steps: T; None takes the layer's own.

        Returns:
            T.

        Raises:
            ValueError: if it is below 1.
        """
        if steps is not None and steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}.")
        return int(self.steps if steps is None else steps)

    def sample_noise_size(self, steps=None):
        """How many normal numbers a row `sample` takes.

        Args:
            steps: int or None, T.

        Returns:
            int.
        """
        return (2 + self.check_steps(steps)) * math.prod(self.shape)

    @property
    def deterministic_noise_size(self):
        """int, how many normal numbers a row `sample_deterministic` takes."""
        return 2 * math.prod(self.shape)

    def call(self, u, noise, training=False):
        return self.negative_bound(u, noise, training)

    def negative_bound(self, u, noise, training=False):
        """Estimates -L_vlb(u) in continuous time from one time a row (Eq. 16, 31).

        Args:
            u: float32 tensor `[N, d, d, C]`.
            noise: float32 tensor `[N, bound_noise_size]`, standard normal.
            training: bool, whether dropout is on.

        Returns:
            `DiffusionTerms`, nats.
        """
        time = to_uniform(noise[:, 0])
        noise = tf.reshape(noise[:, 1:], tf.shape(u))
        loss = self.diffusion_loss(u, time, noise, training)
        return DiffusionTerms(loss, tf.zeros_like(loss) + self._reconstruction(), self.prior_kl(u))

    def score_noise_size(self, steps=None):
        """How many normal numbers a row `score` takes.

        Args:
            steps: int or None, T.

        Returns:
            int.
        """
        return (1 + self.check_steps(steps)) * math.prod(self.shape)

    def score(self, u, noise, steps=None):
        """Scores pseudoinputs under the process that `sample` runs, clip included, with one trajectory a row (Eq. 31).

        The posterior and the model's step have one variance c sigma_s^2 and means c alpha_s u and c alpha_s u_hat
        apart from what they share (Eq. 27 to 29). As the trajectory is known once its noise is, one pass of the UNet
        scores all T steps, or 50 of them where there are more.

        Args:
            u: float32 tensor `[N, d, d, C]`.
            noise: float32 tensor `[N, score_noise_size(steps)]`, standard normal.
            steps: int or None, T; None takes the layer's own.

        Returns:
            `TrajectoryScore`, nats; the mean of minus the log-weight is that of the sum of the terms.
        """
        steps = self.check_steps(steps)
        fresh = tf.reshape(noise, [-1, 1 + steps, *self.shape])
        states = self.schedule.trajectory(fresh)
        times = tf.constant(1.0 - np.arange(steps) / steps, tf.float32)
        groups = [slice(start, min(start + STEPS_AT_A_TIME, steps)) for start in range(0, steps, STEPS_AT_A_TIME)]
        predicted = tf.concat([self._predict_along(u, states[:, group], times[group]) for group in groups], axis=1)
        distance = (u[:, tf.newaxis] - predicted) * self._step_scales(steps)
        step_kls = 0.5 * _sum_over_all_but_rows(tf.square(distance))
        steps_weight = -step_kls - _sum_over_all_but_rows(distance * fresh[:, 1:])
        terms = DiffusionTerms(step_kls, tf.zeros_like(step_kls) + self._reconstruction(), self.prior_kl(u))
        return TrajectoryScore(terms, steps_weight + self._ends_weight(u, states))

    def _predict_along(self, u, states, times):
        """u_hat at each time of a trajectory, `[N, T, d, d, C]`."""
        times = tf.broadcast_to(times, tf.shape(states)[:2])
        u = tf.broadcast_to(u[:, tf.newaxis], tf.shape(states))
        u, states = (tf.reshape(value, [-1, *self.shape]) for value in (u, states))
        flat_times = tf.reshape(times, [-1])
        predicted = self.predict_u(self.schedule.diffuse(u, _like(flat_times), states), flat_times)
        return tf.reshape(predicted, [-1, times.shape[1], *self.shape])

    def _step_scales(self, steps):
        """For each step c alpha_s over the standard deviation, that is sqrt(c SNR(s)): `[T, 1, 1, 1]`."""
        c = -math.expm1(-self.schedule.slope / steps)
        gamma = self.schedule.gamma(1.0 - np.arange(1, steps + 1) / steps)
        return tf.constant(np.sqrt(c * np.exp(-gamma))[:, None, None, None], tf.float32)

    def _ends_weight(self, u, states):
        """Gives log p(y_1) - log q(y_1|u) + log r(u|y_0); the first two share their constants."""
        time, last = tf.constant(1.0), states[:, 0]
        y = self.schedule.diffuse(u, time, last)
        at_one = 0.5 * (tf.square(last) - tf.square(y)) + tf.math.log(self.schedule.sigma(time))
        at_zero = -0.5 * (tf.square(states[:, -1]) + LOG_2_PI + self.schedule.gamma_min)
        return _sum_over_all_but_rows(at_one + at_zero)

    def released_estimate(self, u, noise, steps=None):
        """Estimates -L_vlb(u) as the released test code does, from below: not a bound.

        Its diffusion term is the mean of the continuous-time integrand at the right ends of T intervals, where the
        integrand is smaller than within them.

        Args:
            u: float32 tensor `[N, d, d, C]`.
            noise: float32 tensor `[N, T P]`, standard normal, P being the elements of u.
            steps: int or None, T; None takes the layer's own.

        Returns:
            `DiffusionTerms`, nats.
        """
        steps = self.check_steps(steps)
        rows = tf.shape(u)[0]
        times = tf.tile(tf.constant(np.arange(1, steps + 1) / steps, tf.float32), [rows])
        losses = self.diffusion_loss(tf.repeat(u, steps, axis=0), times, tf.reshape(noise, [-1, *self.shape]))
        loss = tf.reduce_mean(tf.reshape(losses, [-1, steps]), axis=1)
        return DiffusionTerms(loss, tf.zeros_like(loss) + self._reconstruction(), self.prior_kl(u))

    def diffusion_loss(self, u, time, noise, training=False):
        """The continuous-time integrand 1/2 gamma'(t) |eps - eps_hat(y_t, t)|^2.

        Args:
            u: float32 tensor `[N, d, d, C]`.
            time: float32 tensor `[N]` in [0, 1].
            noise: float32 tensor like `u`, eps.
            training: bool, whether dropout is on.

        Returns:
            float32 tensor `[N]`, nats.
        """
        y = self.schedule.diffuse(u, _like(time), noise)
        error = tf.math.squared_difference(self.predict_noise(y, time, training), noise)
        return 0.5 * self.schedule.slope * tf.reduce_sum(error, axis=[1, 2, 3])

    def prior_kl(self, u):
        """KL(q(y_1|u) || N(0, I)), the term L_1 of Eq. 31.

        Args:
            u: float32 tensor `[N, d, d, C]`.

        Returns:
            float32 tensor `[N]`, nats.
        """
        gamma = self.schedule.gamma_max
        alpha_squared = 1.0 / (1.0 + math.exp(gamma))
        # sigma^2 - 1 - log sigma^2 is a difference of nearly equal numbers: in double precision.
        constant = math.log1p(math.exp(-gamma)) - alpha_squared
        return 0.5 * tf.reduce_sum(alpha_squared * tf.square(u) + constant, axis=[1, 2, 3])

    def _reconstruction(self):
        """-E log r(u|y_0) of Eq. 30, the same for every u."""
        return 0.5 * math.prod(self.shape) * (1.0 + LOG_2_PI + self.schedule.gamma_min)

    def predict_noise(self, y, time, training=False):
        """The UNet's prediction of the noise in y_t.

        Args:
            y: float32 tensor `[N, d, d, C]`.
            time: float32 tensor `[N]` in [0, 1], or `[1]` for all rows.
            training: bool, whether dropout is on.

        Returns:
            float32 tensor like `y`.
        """
        return tf.cast(self.unet(y, time, training=training), tf.float32)

    def predict_u(self, y, time):
        """The clean pseudoinput that the predicted noise implies, clipped where u is bounded.

        Args:
            y: float32 tensor `[N, d, d, C]`, y_t.
            time: float32 tensor `[N]` in [0, 1], or `[1]` for all rows.

        Returns:
            float32 tensor like `y`.
        """
        noise = self.predict_noise(y, time)
        time = _like(time)
        u = (y - self.schedule.sigma(time) * noise) / self.schedule.alpha(time)
        return tf.clip_by_value(u, -1.0, 1.0) if self.clip else u

    def transition(self, y, source, target):
        """Mean and standard deviation of the backward step r(y_s|y_t), s < t (Eq. 26 to 29).

        Args:
            y: float32 tensor `[N, d, d, C]`, y_t.
            source: float32 tensor `[N]`, t, or `[1]` for all rows.
            target: float32 tensor like `source`, s.

        Returns:
            The mean, like `y`, and the standard deviation, `[N, 1, 1, 1]` or `[1, 1, 1, 1]`.
        """
        return self.schedule.posterior(y, self.predict_u(y, source), _like(source), _like(target))

    def sample(self, noise, steps=None, temperature=1.0):
        """Draws pseudoinputs: y_1 from N(0, I), T ancestral steps, u from r(u|y_0) (Eq. 29, 30).

        Args:
            noise: float32 tensor `[N, sample_noise_size(steps)]`, standard normal.
            steps: int or None, T; None takes the layer's own.
            temperature: float or tensor that broadcasts against u, factor of the standard deviation of each step's
                noise; y_1 is not scaled.

        Returns:
            float32 tensor `[N, d, d, C]`.
        """
        steps = self.check_steps(steps)
        noise = tf.reshape(noise, [-1, steps + 2, *self.shape])

        def step(i, y):
            time = 1.0 - tf.cast([i], tf.float32) / steps  # one for all rows: the UNet embeds it once
            mean, deviation = self.transition(y, time, tf.maximum(time - 1.0 / steps, 0.0))
            return i + 1, mean + temperature * deviation * noise[:, i + 1]

        _, y = tf.while_loop(lambda i, y: i < steps, step, (0, noise[:, 0]))
        return self._decode(y, temperature * noise[:, -1])

    def sample_deterministic(self, noise, steps=None, temperature=1.0):
        """Draws pseudoinputs by DDIM: y_1 from N(0, I), T steps without noise, u from r(u|y_0) (Eq. 30).

        Each step keeps the noise that the prediction of u implies: y_s = alpha_s u_hat + sigma_s eps_hat.

        Args:
            noise: float32 tensor `[N, deterministic_noise_size]`, standard normal.
            steps: int or None, T; None takes the layer's own.
            temperature: float or tensor that broadcasts against u, factor of the standard deviation of r(u|y_0); y_1
                is not scaled.

        Returns:
            float32 tensor `[N, d, d, C]`.

        Source: Song, Meng and Ermon, "Denoising diffusion implicit models", ICLR 2021, Eq. 12 at sigma = 0.
        """
        steps = self.check_steps(steps)
        noise = tf.reshape(noise, [-1, 2, *self.shape])

        def step(i, y):
            time = 1.0 - tf.cast([i], tf.float32) / steps  # one for all rows: the UNet embeds it once
            source, target = _like(time), _like(tf.maximum(time - 1.0 / steps, 0.0))
            u = self.predict_u(y, time)
            implied = (y - self.schedule.alpha(source) * u) / self.schedule.sigma(source)
            return i + 1, self.schedule.diffuse(u, target, implied)

        _, y = tf.while_loop(lambda i, y: i < steps, step, (0, noise[:, 0]))
        return self._decode(y, temperature * noise[:, 1])

    def _decode(self, y, noise):
        """Draws u from r(u|y_0) = N(y_0 / alpha_0, sigma_0^2 / alpha_0^2 I) (Eq. 30)."""
        gamma = self.schedule.gamma_min
        return y / self.schedule.alpha(tf.constant(0.0)) + math.exp(0.5 * gamma) * noise

    def get_config(self):
        return {
            **super().get_config(),
            "channels": self.unet.channels,
            "blocks": self.unet.blocks,
            "dropout": self.unet.dropout,
            "gamma_min": self.schedule.gamma_min,
            "gamma_max": self.schedule.gamma_max,
            "steps": self.steps,
            "clip": self.clip,
        }


def _sum_over_all_but_rows(values):
    return tf.reduce_sum(values, axis=list(range(1, len(values.shape))))


def _like(time):
    """Times `[N]` in a shape that broadcasts against pseudoinputs."""
    return tf.reshape(time, [-1, 1, 1, 1])
