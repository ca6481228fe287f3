"""N(0, I) as the prior over pseudoinputs."""

import math

import keras
import tensorflow as tf

from dvpvae_tf.layers.gaussian import standard_log_density
from dvpvae_tf.priors.exact import ExactPrior


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class StandardPrior(ExactPrior):
    """The standard normal distribution over pseudoinputs. Takes the arguments of `ExactPrior`."""

    def log_prob(self, u: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(standard_log_density(u), axis=[1, 2, 3])

    def sample_noise_size(self, steps: int | None = None) -> int:
        return math.prod(self.shape)

    def sample(self, noise: tf.Tensor, steps: int | None = None, temperature: float | tf.Tensor = 1.0) -> tf.Tensor:
        return temperature * tf.reshape(noise, [-1, *self.shape])
