"""A mixture of Gaussians as the prior over pseudoinputs (Figure 5)."""

import math
from typing import Any

import keras
import tensorflow as tf

from dvpvae_tf.layers.gaussian import log_density
from dvpvae_tf.layers.shape import Shape
from dvpvae_tf.noise import to_index, to_uniform
from dvpvae_tf.priors.exact import ExactPrior


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class MixturePrior(ExactPrior):
    """Equally weighted Gaussians over the whole of u, with trained means and log-variances (Figure 5).

    Args:
        components: how many Gaussians.
        **kwargs: passed to `ExactPrior`.
    """

    def __init__(self, components: int = 10, **kwargs: Any):
        super().__init__(**kwargs)
        self.components = components

    def build(self, u_shape: Shape, noise_shape: Shape | None = None) -> None:
        super().build(u_shape)
        shape = (self.components, math.prod(self.shape))
        start = keras.initializers.RandomNormal(stddev=0.5)
        self.means = self.add_weight(shape=shape, initializer=start, autocast=False, name="means")
        self.log_vars = self.add_weight(shape=shape, initializer="zeros", autocast=False, name="log_vars")

    def log_prob(self, u: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(u, [-1, 1, math.prod(self.shape)])
        of_components = tf.reduce_sum(log_density(flat, self.means, self.log_vars), axis=2)
        return tf.reduce_logsumexp(of_components, axis=1) - math.log(self.components)

    def sample_noise_size(self, steps: int | None = None) -> int:
        return 1 + math.prod(self.shape)

    def sample(self, noise: tf.Tensor, steps: int | None = None, temperature: float | tf.Tensor = 1.0) -> tf.Tensor:
        """Draws a component, then u from its Gaussian.

        Args:
            noise: float32 `[N, sample_noise_size()]`, standard normal.
            steps: not used.
            temperature: the factor of the Gaussian's standard deviation.

        Returns:
            float32 `[N, d, d, C]`.
        """
        component = to_index(to_uniform(noise[:, 0]), self.components)
        mean = tf.reshape(tf.gather(self.means, component), [-1, *self.shape])
        log_var = tf.reshape(tf.gather(self.log_vars, component), [-1, *self.shape])
        return mean + temperature * tf.exp(0.5 * log_var) * tf.reshape(noise[:, 1:], [-1, *self.shape])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "components": self.components}
