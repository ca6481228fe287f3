"""How a model uses its stochastic layers (Eq. 23 and 24)."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from dvpvae_tf.distribute.devices import map_round_robin
from dvpvae_tf.distribute.sharding import smaller_batch
from dvpvae_tf.evaluation.evaluator import Evaluator, checked_images
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.noise import check_seed

ACTIVE_UNIT_THRESHOLD = 0.01


class LayerStatistics(NamedTuple):
    """How much the model uses its layers.

    Attributes:
        kl: `[L]`, the mean KL of each layer in nats, top layer first.
        active_units: `[L]`, the share of active units of each layer, top layer first.
        all_active_units: the share of active units of the whole model.
    """

    kl: np.ndarray
    active_units: np.ndarray
    all_active_units: float


class LayerSums(NamedTuple):
    """Sums over images, from which `LayerStatistics` are computed. The sums of two parts of a data set are added.

    Attributes:
        images: the number of images.
        kl: `[L]`, in nats, top layer first.
        products: `[units]`, the products of the two posterior means of a unit, top layer first.
        means: `[2, units]`, the posterior means of the two draws.
        layer_sizes: `[L]`, the number of units of each layer.
    """

    images: int
    kl: np.ndarray
    products: np.ndarray
    means: np.ndarray
    layer_sizes: np.ndarray

    def plus(self, other: "LayerSums") -> "LayerSums":
        """Adds the sums over other images.

        Args:
            other: sums of the same model.

        Returns:
            `LayerSums`.
        """
        return LayerSums(
            self.images + other.images,
            self.kl + other.kl,
            self.products + other.products,
            self.means + other.means,
            self.layer_sizes,
        )

    def statistics(self) -> LayerStatistics:
        """Computes the statistics of all images.

        Returns:
            `LayerStatistics`.
        """
        covariance = self.products / self.images - np.prod(self.means / self.images, axis=0)
        active = covariance > ACTIVE_UNIT_THRESHOLD
        by_layer = [units.mean() for units in np.split(active, np.cumsum(self.layer_sizes)[:-1])]
        return LayerStatistics(self.kl / self.images, np.array(by_layer), float(active.mean()))


def layer_statistics(model: DVPVAE, images: np.ndarray, seed: int = 0, batch_size: int = 100) -> LayerStatistics:
    """Measures how much the model uses each of its layers (Eq. 23 and 24).

    A unit is active where the variance over images of its expected posterior mean is above 0.01. The variance is
    estimated as the covariance of two posterior means with independent noise in the layers above, so that this noise
    adds nothing to it.

    Args:
        model: an adapted `DVPVAE`.
        images: `[N, D, D, C]`: uint8, or float in [0, 1]; at least one.
        seed: random seed, below 2^31.
        batch_size: images that go through the model at a time.

    Returns:
        `LayerStatistics`.

    Raises:
        ValueError: if there are no images, they are of another shape or range, or `adapt` has not been called.
    """
    return layer_sums(model, images, seed, batch_size).statistics()


def layer_sums(
    model: DVPVAE,
    images: np.ndarray,
    seed: int = 0,
    batch_size: int = 100,
    first: int = 0,
    copies: Sequence[DVPVAE] = (),
    verbose: int = 0,
) -> LayerSums:
    """Computes what `layer_statistics` needs, for a part of a data set or on several devices too.

    Args:
        model: an adapted `DVPVAE`.
        images: `[N, D, D, C]`: uint8, or float in [0, 1]; at least one.
        seed: random seed, below 2^31.
        batch_size: images that go through the model at a time.
        first: index of the first of the images in the whole data set.
        copies: copies of the model on other devices, which take batches in turn with it.
        verbose: 1 for a line at the start and a progress bar, 0 for no output.

    Returns:
        `LayerSums`.

    Raises:
        ValueError: as `layer_statistics` does.
    """
    check_seed(seed)
    images = checked_images(model, images)
    evaluators = [Evaluator(each) for each in (model, *copies)]
    size = smaller_batch(len(images), batch_size, len(evaluators))
    layer_sizes = np.array([math.prod(shape) for shape in model.top_down.latent_shapes])

    def sums_of(evaluator, start):
        data = evaluator.image_data(images[start : start + size], seed, first + start)
        means, kl = (np.asarray(value, "float64") for value in evaluator.infer_twice(data, seed, first + start))
        return LayerSums(len(kl), kl.sum(axis=0), np.prod(means, axis=0).sum(axis=0), means.sum(axis=1), layer_sizes)

    if verbose:
        print("Tracing and measuring how much the layers are used", flush=True)
    bar = keras.utils.Progbar(len(images), verbose=verbose, unit_name="image")
    functions = [functools.partial(sums_of, evaluator) for evaluator in evaluators]
    parts = []
    for sums in map_round_robin(functions, range(0, len(images), size)):
        parts.append(sums)
        bar.add(sums.images)
    return functools.reduce(LayerSums.plus, parts)
