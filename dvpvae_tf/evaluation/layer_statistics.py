"""How a model uses its stochastic layers (Eq. 23 and 24)."""

import functools
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.distribute.devices import device_of, map_round_robin
from dvpvae_tf.distribute.sharding import smaller_batch
from dvpvae_tf.evaluation.bounds import _checked_images, _encoder
from dvpvae_tf.noise import Purpose, Stream

ACTIVE_UNIT_THRESHOLD = 0.01


class LayerStatistics(NamedTuple):
    """The mean KL `[L]` in nats and the share of active units `[L]` of each layer, top first, and of all units."""

    kl: np.ndarray
    active_units: np.ndarray
    all_active_units: float


class LayerSums(NamedTuple):
    """What `LayerStatistics` are made of, as sums over the images: those of parts of a data set add up.

    `images` is their number, `kl` `[L]` the KL in nats, `products` `[units]` the products of two posterior means of a
    unit and `means` `[2, units]` these means, top layer first; `layer_sizes` `[L]` are the layers' numbers of units.
    """

    images: int
    kl: np.ndarray
    products: np.ndarray
    means: np.ndarray
    layer_sizes: np.ndarray

    def plus(self, other):
        """Adds the sums over other images.

        Args:
            other: `LayerSums` of the same model.

        Returns:
            `LayerSums`.
        """
        return LayerSums(*map(np.add, self[:-1], other[:-1]), self.layer_sizes)

    def statistics(self):
        """Gives the statistics of all images.

        Returns:
            `LayerStatistics`.
        """
        covariance = self.products / self.images - np.prod(self.means / self.images, axis=0)
        active = covariance > ACTIVE_UNIT_THRESHOLD
        by_layer = [units.mean() for units in np.split(active, np.cumsum(self.layer_sizes)[:-1])]
        return LayerStatistics(self.kl / self.images, np.array(by_layer), float(active.mean()))


def layer_statistics(model, images, seed=0, batch_size=100):
    """Measures how the model uses each of its layers (Eq. 23 and 24).

    The variance over images of a unit's expected posterior mean is estimated, without the bias of the noise in the
    layers above, as the covariance over the images of two posterior means inferred with independent noise.

    Args:
        model: `DVPVAE`.
        images: array `[N, D, D, C]`: uint8, or float in [0, 1].
        seed: int, of the noise.
        batch_size: int, at least 1, images that go through the model at a time.

    Returns:
        `LayerStatistics`.

    Raises:
        ValueError: if there are no images, they are of another shape or range, or `adapt` has not been called.
    """
    return layer_sums(model, images, seed, batch_size).statistics()


def layer_sums(model, images, seed=0, batch_size=100, first=0, copies=()):
    """Gives what `layer_statistics` are made of, for images that may be a part of a data set.

    Args:
        model: see `layer_statistics`.
        images: see `layer_statistics`.
        seed: see `layer_statistics`.
        batch_size: see `layer_statistics`.
        first: see `iwae`.
        copies: see `iwae`.

    Returns:
        `LayerSums`.

    Raises:
        ValueError: see `layer_statistics`.
    """
    images = _checked_images(model, images)
    models = [model, *copies]
    size = smaller_batch(len(images), batch_size, len(models))

    def summer(model):
        with device_of(model):
            encode = _encoder(model, images, seed)
        infer_twice = _twice_inferrer(model, seed)

        def sums(start):
            with device_of(model):
                place = tf.constant(first + start)
                means, kl = infer_twice(encode(tf.constant(images[start : start + size]), place), place)
            means = np.stack([np.concatenate([np.reshape(layer, [len(kl), -1]) for layer in one], 1) for one in means])
            return LayerSums(
                len(kl),
                np.sum(kl, axis=0, dtype="float64"),
                np.prod(means, axis=0, dtype="float64").sum(axis=0),
                np.sum(means, axis=1, dtype="float64"),
                np.array([math.prod(shape) for shape in model.top_down.latent_shapes]),
            )

        return sums

    return functools.reduce(
        LayerSums.plus, map_round_robin([summer(each) for each in models], range(0, len(images), size))
    )


def _twice_inferrer(model, seed):
    """The function from encoded images to two draws of their posterior means, layer by layer, and the KL of one."""

    @tf.function(reduce_retracing=True)
    def infer_twice(encoded, first):
        both = []
        for sample in (0, 1):
            seeds = noise.row_seeds(seed, Stream.FIRST_DRAW - sample, first, tf.shape(encoded.target)[0])
            walk_noise = noise.normals(noise.fork(seeds, Purpose.INFERENCE), model.walk_noise_shapes)
            both.append(model.walk(encoded.features, walk_noise))
        return [inference.posterior_means for inference in both], tf.stack(both[0].kl, axis=1)

    return infer_twice
