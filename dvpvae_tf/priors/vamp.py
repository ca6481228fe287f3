"""The VampPrior over the top latent: the baseline that the paper compares with (Section 2.2, Table 6)."""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf.errors import UserError
from dvpvae_tf.layers.gaussian import LOG_2_PI
from dvpvae_tf.layers.pixels import check_brightest, check_training_images, gather_images, to_unit_range
from dvpvae_tf.layers.pseudoinputs import ClipWeights
from dvpvae_tf.layers.shape import Shape
from dvpvae_tf.noise import to_index

NOT_ADAPTED = -1.0  # the value of all pixels before `adapt`


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class VampPrior(keras.layers.Layer):
    """A mixture of the posteriors of the top latent at K trained images, the pseudoinputs (Eq. 7).

    The model encodes the pseudoinputs together with its images. `log_prob` takes the Gaussians that result.

    Args:
        components: K.
        from_data: whether the pseudoinputs start as training images, which `adapt` draws, or at random.
        **kwargs: passed to `keras.layers.Layer`. The dtype is float32 always.
    """

    def __init__(self, components: int = 500, from_data: bool = True, **kwargs: Any):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.components = components
        self.from_data = from_data

    def build(self, image_shape: Shape) -> None:
        fixed, random = keras.initializers.Constant(NOT_ADAPTED), keras.initializers.RandomUniform(0.0, 1.0)
        start = fixed if self.from_data else random
        self.pseudoinputs = self.add_weight(
            shape=(self.components, *image_shape[1:]),
            initializer=start,
            constraint=ClipWeights(0.0, 1.0),
            autocast=False,
            name="pseudoinputs",
        )

    @property
    def adapted(self) -> bool:
        """Whether the pseudoinputs have their starting values."""
        return bool(np.any(self.pseudoinputs.numpy() != NOT_ADAPTED))

    def adapt(self, images: np.ndarray | tf.data.Dataset, seed: int = 0) -> None:
        """Sets the pseudoinputs to training images, drawn without replacement; only checks them without `from_data`.

        Args:
            images: array `[N, D, D, C]`, or `tf.data.Dataset` of batches: uint8, or float32 in [0, 1].
            seed: of the draw.

        Raises:
            ValueError: if there are no images, fewer than components, or they are uint8 of 0 and 1.
        """
        if not self.from_data:
            check_training_images(images, self.pseudoinputs.shape[1:])
            return
        images = gather_images(images)
        if len(images) < self.components:
            raise UserError(
                f"{self.components} components cannot start from {len(images)} training images: give fewer components "
                "(--model.vamp-components)"
            )
        check_brightest(images.dtype, images.max())
        chosen = np.random.default_rng(seed).permutation(len(images))[: self.components]
        self.pseudoinputs.assign(to_unit_range(tf.convert_to_tensor(images[chosen]), self.pseudoinputs.shape[1:]))

    def log_prob(self, latents: tf.Tensor, means: tf.Tensor, log_vars: tf.Tensor) -> tf.Tensor:
        """Computes log p(z_L), the log-density of the equally weighted mixture.

        The squared distances of all latents to all components come from matrix products, in float64 because they are
        differences of larger numbers.

        Args:
            latents: float32 `[N, h, w, c]`, z_L.
            means: float32 `[K, h, w, c]`, the means of q(z_L|pseudoinput).
            log_vars: float32, like `means`, their log-variances.

        Returns:
            float32 `[N]`, nats.
        """
        size = math.prod(latents.shape[1:])
        z, mean, log_var = (tf.cast(tf.reshape(value, [-1, size]), tf.float64) for value in (latents, means, log_vars))
        precision = tf.exp(-log_var)
        distances = (
            tf.matmul(tf.square(z), precision, transpose_b=True)
            - 2.0 * tf.matmul(z, mean * precision, transpose_b=True)
            + tf.reduce_sum(tf.square(mean) * precision, axis=1)
        )
        constants = tf.reduce_sum(log_var, axis=1) + size * LOG_2_PI
        log_prob = tf.reduce_logsumexp(-0.5 * (distances + constants), axis=1) - math.log(self.components)
        return tf.cast(log_prob, tf.float32)

    def choose(self, uniform: tf.Tensor) -> tf.Tensor:
        """Draws the pseudoinput of a component for each row; all components are equally likely.

        Args:
            uniform: float32 `[N]` in [0, 1), uniform noise.

        Returns:
            float32 `[N, D, D, C]` in [0, 1].
        """
        return tf.gather(self.pseudoinputs.value, to_index(uniform, self.components))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "components": self.components, "from_data": self.from_data}
