"""From images to their latents in batches, and the check of latents that users give."""

from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from dvpvae_tf.distribute.devices import device_of
from dvpvae_tf.layers.pixels import iterate_images
from dvpvae_tf.models.outputs import Latents
from dvpvae_tf.noise import check_seed

if TYPE_CHECKING:
    from dvpvae_tf.models.generative_model import GenerativeModel


def encode_in_batches(
    model: "GenerativeModel",
    images: np.ndarray | tf.data.Dataset,
    sample: bool = False,
    seed: int = 0,
    batch_size: int = 250,
) -> Latents:
    """Encodes images; see `GenerativeModel.encode`, which this is.

    Args:
        model: an adapted `DVPVAE`.
        images: `[N, D, D, C]`: uint8, or float32 in [0, 1]; or a data set of batches.
        sample: whether u and z are drawn from their posteriors, rather than their means.
        seed: of the noise.
        batch_size: images in a batch of an array.

    Returns:
        `Latents` of arrays.

    Raises:
        ValueError: if there are no images, they are of another shape, type or range, the data set has no end, or
            `adapt` has not been called.
    """
    model.check_adapted()
    check_seed(seed)
    parts, first = [], 0
    for batch in iterate_images(images, batch_size):
        batch = model.prepare(tf.convert_to_tensor(batch))
        with device_of(model):
            _trace_encoder(model, sample)
            u, z = model.encode_function(batch, sample, tf.constant(seed, tf.int32), tf.constant(first, tf.int32))
        parts.append(([] if u is None else [u.numpy()], [each.numpy() for each in z]))
        first += len(batch)
    if not parts:
        raise ValueError("There are no images to encode.")
    u, z = ([np.concatenate(layer) for layer in zip(*layers, strict=True)] for layers in zip(*parts, strict=True))
    return Latents(u[0] if u else None, z)


def encode_batch(
    model: "GenerativeModel", images: tf.Tensor, sample: bool, seed: tf.Tensor, first: tf.Tensor
) -> tuple[tf.Tensor | None, list[tf.Tensor]]:
    """Gives u and z of one batch, for a graph; arguments are those of `DVPVAE.infer`."""
    inference = model.infer(images, sample, seed, first)
    return inference.pseudoinput, inference.latents


def _trace_encoder(model: "GenerativeModel", sample: bool) -> None:
    """Makes one graph for batches of all sizes; once it is there this does nothing."""
    images, number = tf.TensorSpec([None, *model.image_shape], tf.float32), tf.TensorSpec([], tf.int32)
    model.encode_function.get_concrete_function(images, sample, number, number)


def check_latents(model: "GenerativeModel", latents: Latents) -> int:
    """Checks latents before any graph is made.

    Args:
        model: `DVPVAE`.
        latents: what the user gives.

    Returns:
        N, the number of rows.

    Raises:
        ValueError: if none is given, one is not finite or of another shape, or they differ in their rows.
    """
    shapes = {f"z of layer {number}": shape for number, shape in enumerate(model.top_down.latent_shapes)}
    if len(latents.z) > len(shapes):
        raise ValueError(f"The model has {len(shapes)} layers, but there are {len(latents.z)} z.")
    named = [*zip(shapes, latents.z, strict=False), ("u", latents.u)]
    given = {name: np.asarray(value) for name, value in named if value is not None}
    if not given:
        raise ValueError("Give u or at least one z; model.sample draws all of them.")
    if "u" in given and model.pseudoinput is None:
        raise ValueError("This model has no pseudoinputs: leave out u.")
    if model.pseudoinput is not None:
        shapes["u"] = model.pseudoinput.shape
    for name, value in given.items():
        if value.shape[1:] != shapes[name] or value.ndim == 0:
            raise ValueError(f"The model takes {name} [N, {', '.join(map(str, shapes[name]))}], got {value.shape}.")
        if not np.isfinite(value).all():
            raise ValueError(f"{name} must be finite.")
    rows = {len(value) for value in given.values()}
    if len(rows) > 1 or 0 in rows:
        raise ValueError(f"All latents must have one number of rows, at least 1, got {sorted(rows)}.")
    return rows.pop()
