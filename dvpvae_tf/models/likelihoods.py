"""Likelihoods p(x | z): from the decoder's last map to a TensorFlow Probability distribution over images.

TensorFlow Probability takes half a second to import: the methods that need it do so.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.errors import UserError

if TYPE_CHECKING:
    from tensorflow_probability import distributions as tfd

PARAMETERS_PER_MIXTURE = {1: 3, 3: 10}  # by number of channels


class Likelihood:
    """The base of p(x|z): the map from the decoder's outputs to a distribution over images.

    Subclasses are registered with Keras and define the methods below; images are float32 `[N, H, W, C]` in [0, 1].
    """

    needs_uniform = False  # whether `target` takes uniform noise

    def num_parameters(self, channels: int) -> int:
        """Returns K, the number of decoder outputs for each pixel.

        Args:
            channels: number of image channels.

        Raises:
            UserError: if the likelihood has no form for this number of channels.
        """
        raise NotImplementedError

    def target(self, images: tf.Tensor, uniform: tf.Tensor | None = None) -> tf.Tensor:
        """Converts images to the values that `distribution` is for.

        Args:
            images: float32 `[N, H, W, C]` in [0, 1].
            uniform: float32 `[N, H, W, C]`, uniform noise in [0, 1), where `needs_uniform` is True.

        Returns:
            float32 `[N, H, W, C]`.
        """
        raise NotImplementedError

    def distribution(self, parameters: tf.Tensor, temperature: float | tf.Tensor = 1.0) -> tfd.Distribution:
        """Returns p(x|z), a distribution over targets `[H, W, C]` with log-probabilities in nats.

        Args:
            parameters: decoder outputs `[..., H, W, K]` of any float type; computed with in float32.
            temperature: scalar, or `[N, 1, 1, 1]`, that multiplies the scale, if there is one.

        Raises:
            ValueError: if K is wrong.
        """
        raise NotImplementedError

    def mean_images(self, parameters: tf.Tensor) -> tf.Tensor:
        """Computes the mean of p(x|z), float32 `[..., H, W, C]` in [0, 1].

        Args:
            parameters: decoder outputs `[..., H, W, K]`.
        """
        raise NotImplementedError

    def images(
        self, parameters: tf.Tensor, seeds: tf.Tensor | None = None, temperature: float | tf.Tensor = 1.0
    ) -> tf.Tensor:
        """Makes images to look at.

        A logistic mixture gives a draw of p(x|z), or its mode without seeds. A Bernoulli likelihood always gives its
        mean.

        Args:
            parameters: decoder outputs `[N, H, W, K]`.
            seeds: int32 `[N, 2]`, one key for each image.
            temperature: scalar, or `[N, 1, 1, 1]`, that multiplies the scale. At 0 the image is the mean.

        Returns:
            float32 `[N, H, W, C]` in [0, 1].
        """
        raise NotImplementedError

    def draw(self, parameters: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        """Draws images from p(x|z), of a Bernoulli likelihood black or white.

        Args:
            parameters: decoder outputs `[N, H, W, K]`.
            seeds: int32 `[N, 2]`, one key for each image.

        Returns:
            float32 `[N, H, W, C]` in [0, 1].
        """
        return self.images(parameters, seeds)

    def pixel_log_probs(self, parameters: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """Computes the log-probability of each pixel, all its channels together.

        Args:
            parameters: decoder outputs `[N, H, W, K]`.
            target: float32 `[N, H, W, C]`, what `target` returns.

        Returns:
            float32 `[N, H, W]`, nats.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Likelihood:
        """Makes a likelihood from what `get_config` returns."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class BernoulliLikelihood(Likelihood):
    """Independent Bernoulli pixels, for dynamically binarized grey images (Table 7: MNIST and OMNIGLOT).

    Each pixel has one logit for each channel. `target` sets a pixel to 1 with its grey value as the probability, or
    without noise where its grey value is above 0.5. `images` are the probabilities: nothing is drawn.
    """

    needs_uniform = True

    def num_parameters(self, channels: int) -> int:
        return channels

    def target(self, images: tf.Tensor, uniform: tf.Tensor | None = None) -> tf.Tensor:
        threshold = 0.5 if uniform is None else uniform
        return tf.cast(images > threshold, tf.float32)

    def distribution(self, parameters: tf.Tensor, temperature: float | tf.Tensor = 1.0) -> tfd.Distribution:
        from tensorflow_probability import distributions as tfd

        return tfd.Independent(self._of_elements(parameters), reinterpreted_batch_ndims=3)

    def _of_elements(self, parameters: tf.Tensor) -> tfd.Distribution:
        from tensorflow_probability import distributions as tfd

        return tfd.Bernoulli(tf.cast(parameters, tf.float32), dtype=tf.float32)

    def mean_images(self, parameters: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(tf.cast(parameters, tf.float32))

    def images(
        self, parameters: tf.Tensor, seeds: tf.Tensor | None = None, temperature: float | tf.Tensor = 1.0
    ) -> tf.Tensor:
        return self.mean_images(parameters)

    def draw(self, parameters: tf.Tensor, seeds: tf.Tensor) -> tf.Tensor:
        probabilities = self.mean_images(parameters)
        uniform = noise.uniform(seeds, math.prod(probabilities.shape[1:]))
        return tf.cast(tf.reshape(uniform, tf.shape(probabilities)) < probabilities, tf.float32)

    def pixel_log_probs(self, parameters: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(self._of_elements(parameters).log_prob(target), axis=-1)


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class DiscretizedLogisticMixtureLikelihood(Likelihood):
    """`DiscretizedLogisticMixture` pixels, for grey or colour images of 256 levels (Table 7: CIFAR-10).

    Targets are in [-1, 1]. A pixel has K = 3 M parameters for one channel, K = 10 M for three.

    Args:
        num_mixtures: M, the number of mixture components.
    """

    def __init__(self, num_mixtures: int = 10):
        self.num_mixtures = num_mixtures

    def num_parameters(self, channels: int) -> int:
        if channels not in PARAMETERS_PER_MIXTURE:
            raise UserError(
                f"for the discretized logistic mixture images have 1 or 3 channels, not {channels}: "
                "convert them to grey or RGB."
            )
        return PARAMETERS_PER_MIXTURE[channels] * self.num_mixtures

    def target(self, images: tf.Tensor, uniform: tf.Tensor | None = None) -> tf.Tensor:
        return 2.0 * images - 1.0

    def distribution(self, parameters: tf.Tensor, temperature: float | tf.Tensor = 1.0) -> tfd.Distribution:
        from dvpvae_tf.models.logistic_mixture import DiscretizedLogisticMixture

        return DiscretizedLogisticMixture(parameters, self.num_mixtures, temperature)

    def mean_images(self, parameters: tf.Tensor) -> tf.Tensor:
        return (self.distribution(parameters).mean() + 1.0) / 2.0

    def images(
        self, parameters: tf.Tensor, seeds: tf.Tensor | None = None, temperature: float | tf.Tensor = 1.0
    ) -> tf.Tensor:
        if seeds is None:
            return (self.distribution(parameters).mode() + 1.0) / 2.0
        temperature = tf.cast(temperature, tf.float32)
        distribution = self.distribution(parameters, temperature)
        height, width, channels = distribution.event_shape
        shape = height, width, 1 + channels
        uniform = tf.reshape(noise.uniform(seeds, math.prod(shape)), [-1, *shape])
        drawn = (distribution.from_uniform(uniform) + 1.0) / 2.0
        return tf.where(temperature > 0.0, drawn, self.mean_images(parameters))

    def pixel_log_probs(self, parameters: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        return self.distribution(parameters).pixel_log_probs(target)

    def get_config(self) -> dict[str, Any]:
        return {"num_mixtures": self.num_mixtures}
