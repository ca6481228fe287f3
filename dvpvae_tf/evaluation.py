"""What a model is worth: its bound on a data set, and how it uses its latents."""

import math
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf import noise
from dvpvae_tf.models.dvpvae import EVALUATION_STREAM

ACTIVE_UNIT_THRESHOLD = 0.01


class Bound(NamedTuple):
    """The negative ELBO of a data set, its prior term in continuous time, from one draw of all noise an image.

    Means over the images in nats, except `bits_per_dim`; `standard_error` is that of `negative_elbo` over the images.
    """

    negative_elbo: float
    standard_error: float
    bits_per_dim: float
    bits_per_dim_standard_error: float
    reconstruction: float
    kl_z: float
    kl_u: float
    num_images: int


def negative_elbo(model, dataset, verbose=1):
    """Evaluates the negative ELBO of every image of a data set (Eq. 15), as `model.evaluate` does.

    Args:
        model: `DVPVAE`.
        dataset: `tf.data.Dataset` of batches of images, in a fixed order.
        verbose: int, 1 for a progress bar, 0 for silence.

    Returns:
        `Bound`.
    """
    call = tf.function(lambda images, seeds: model(images, seeds=seeds), reduce_retracing=True)
    batches = int(dataset.cardinality())
    progress = keras.utils.Progbar(batches if batches > 0 else None, verbose=verbose, unit_name="batch")
    terms, seen = [], 0
    for images in dataset:
        seeds = noise.row_seeds(model.seed, EVALUATION_STREAM, seen, len(images))
        elbo = call(images, seeds)
        terms.append([elbo.negative_elbo, elbo.reconstruction, tf.reduce_sum(elbo.kl_z, axis=1), elbo.kl_u])
        seen += len(images)
        progress.add(1)
    total, reconstruction, kl_z, kl_u = np.concatenate(terms, axis=1)
    mean, error = float(total.mean()), float(total.std(ddof=1) / math.sqrt(seen))
    bits = model.bits_per_nat
    others = [float(values.mean()) for values in (reconstruction, kl_z, kl_u)]
    return Bound(mean, error, mean * bits, error * bits, *others, num_images=seen)


class LayerStatistics(NamedTuple):
    """The mean KL `[L]` in nats and the share of active units `[L]` of each layer, top first, and of all units."""

    kl: np.ndarray
    active_units: np.ndarray
    all_active_units: float


def layer_statistics(model, images):
    """Measures how the model uses each of its layers (Eq. 23 and 24).

    The variance over images of a unit's expected posterior mean is estimated, without the bias of the noise in the
    layers above, as the covariance over the images of two posterior means inferred with independent noise.

    Args:
        model: `DVPVAE`.
        images: array or tensor `[N, D, D, C]`: uint8, or float32 in [0, 1].

    Returns:
        `LayerStatistics`.
    """
    first, second = (model.infer(images, seed=seed) for seed in (0, 1))
    active = [
        _covariance(one, two) > ACTIVE_UNIT_THRESHOLD
        for one, two in zip(first.posterior_means, second.posterior_means, strict=True)
    ]
    return LayerStatistics(
        kl=np.array([np.mean(kl) for kl in first.kl]),
        active_units=np.array([np.mean(units) for units in active]),
        all_active_units=float(np.mean(np.concatenate([units.ravel() for units in active]))),
    )


def _covariance(one, two):
    """Covariance over the first axis, element by element."""
    one, two = np.asarray(one, "float64"), np.asarray(two, "float64")
    return np.mean((one - one.mean(axis=0)) * (two - two.mean(axis=0)), axis=0)
