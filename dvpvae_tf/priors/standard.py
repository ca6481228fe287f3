"""N(0, I) as the prior over pseudoinputs."""

import math

import keras
import tensorflow as tf

from dvpvae_tf.priors.exact import ExactPrior


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class StandardPrior(ExactPrior):
    """The standard normal distribution over pseudoinputs; arguments are those of `ExactPrior`."""

    def log_prob(self, u):
        """Computes log r(u).

        Args:
            u: float32 tensor `[N, d, d, C]`.

        Returns:
            float32 tensor `[N]`, nats.
        """
        return -0.5 * tf.reduce_sum(tf.square(u) + math.log(2.0 * math.pi), axis=[1, 2, 3])

    def sample_noise_size(self, steps=None):
        """How many normal numbers a row `sample` takes, an int; `steps` means nothing here."""
        return math.prod(self.shape)

    def sample(self, noise, steps=None, temperature=1.0):
        """Draws pseudoinputs.

        Args:
            noise: float32 tensor `[N, sample_noise_size()]`, standard normal.
            steps: not used.
            temperature: float or tensor that broadcasts against u, factor of the standard deviation.

        Returns:
            float32 tensor `[N, d, d, C]`.
        """
        return temperature * tf.reshape(noise, [-1, *self.shape])
