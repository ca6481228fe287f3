"""The diffusion-based prior over pseudoinputs (Section 3.4, Appendix A)."""

import math
from typing import NamedTuple

import keras
import tensorflow as tf

from dvpvae_tf.layers.unet import UNet
from dvpvae_tf.noise import to_uniform
from dvpvae_tf.noise_schedule import LinearNoiseSchedule

LOG_2_PI = math.log(2.0 * math.pi)


class DiffusionTerms(NamedTuple):
    """The three terms of -L_vlb(u) (Eq. 31), each float32 `[N]`, in nats."""

    diffusion: object
    reconstruction: object
    prior_kl: object


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
        steps: int, T: how many steps sampling takes unless told otherwise.
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

    def sample_noise_size(self, steps=None):
        """How many normal numbers a row `sample` takes.

        Args:
            steps: int or None, T.

        Returns:
            int.
        """
        return (2 + (steps or self.steps)) * math.prod(self.shape)

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
            time: float32 tensor `[N]` in [0, 1].
            training: bool, whether dropout is on.

        Returns:
            float32 tensor like `y`.
        """
        return tf.cast(self.unet(y, time, training=training), tf.float32)

    def predict_u(self, y, time):
        """The clean pseudoinput that the predicted noise implies, clipped where u is bounded.

        Args:
            y: float32 tensor `[N, d, d, C]`, y_t.
            time: float32 tensor `[N]` in [0, 1].

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
            source: float32 tensor `[N]`, t.
            target: float32 tensor `[N]`, s.

        Returns:
            The mean, like `y`, and the standard deviation `[N, 1, 1, 1]`.
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
        steps = steps or self.steps
        noise = tf.reshape(noise, [-1, steps + 2, *self.shape])
        rows = tf.shape(noise)[0]

        def step(i, y):
            time = tf.fill([rows], 1.0 - tf.cast(i, tf.float32) / steps)
            mean, deviation = self.transition(y, time, tf.maximum(time - 1.0 / steps, 0.0))
            return i + 1, mean + temperature * deviation * noise[:, i + 1]

        _, y = tf.while_loop(lambda i, y: i < steps, step, (0, noise[:, 0]))
        return self._decode(y, temperature * noise[:, -1])

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


def _like(time):
    """Times `[N]` in a shape that broadcasts against pseudoinputs."""
    return tf.reshape(time, [-1, 1, 1, 1])
