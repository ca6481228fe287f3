"""N(0, I) as the prior over pseudoinputs."""

import math

import keras
import tensorflow as tf

from dvpvae_tf.priors.terms import ExactTerms, TrajectoryScore


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class StandardPrior(keras.layers.Layer):
    """The standard normal distribution over pseudoinputs.

    Args:
        **kwargs: passed to `keras.layers.Layer`. The dtype is float32 always.
    """

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})

    def build(self, u_shape, noise_shape=None):
        self.shape = tuple(u_shape[1:])

    bound_noise_size = 0  # the density is exact

    def sample_noise_size(self, steps=None):
        """How many normal numbers a row `sample` takes, an int; `steps` means nothing here."""
        return math.prod(self.shape)

    def call(self, u, noise=None, training=False):
        return self.negative_bound(u)

    def negative_bound(self, u, noise=None, training=False):
        """-log r(u), exactly.

        Args:
            u: float32 tensor `[N, d, d, C]`.
            noise: not used.
            training: not used.

        Returns:
            `ExactTerms`, nats.
        """
        return ExactTerms(0.5 * tf.reduce_sum(tf.square(u) + math.log(2.0 * math.pi), axis=[1, 2, 3]))

    def trajectory_noise_size(self, steps=None):
        """How many normal numbers a row `score_trajectory` takes, an int: none."""
        return 0

    def score_trajectory(self, u, noise=None, steps=None):
        """Scores pseudoinputs exactly, there being no trajectory.

        Args:
            u: float32 tensor `[N, d, d, C]`.
            noise: not used.
            steps: not used.

        Returns:
            `TrajectoryScore`: `ExactTerms`, and log r(u) as the log-weight, nats.
        """
        terms = self.negative_bound(u)
        return TrajectoryScore(terms, -terms.cross_entropy)

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

    def compute_output_shape(self, u_shape, noise_shape=None):
        return ((u_shape[0],),)
