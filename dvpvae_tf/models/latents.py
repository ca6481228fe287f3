"""From images to their latents in batches, and the check of latents that users give."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from dvpvae_tf.distribute.devices import device_of
from dvpvae_tf.errors import UserError, list_some
from dvpvae_tf.layers.pixels import iterate_images
from dvpvae_tf.models.outputs import Latents
from dvpvae_tf.noise import check_seed

if TYPE_CHECKING:
    from dvpvae_tf.models.generative_model import GenerativeModel


FILES = "files"  # the array of paths beside the latents of a folder


def encode_in_batches(
    model: "GenerativeModel",
    images: np.ndarray | tf.data.Dataset,
    sample: bool = False,
    seed: int = 0,
    batch_size: int = 250,
) -> Latents:
    """Encodes images in batches.

    It takes the arguments of `GenerativeModel.encode`, after the model, and raises the same errors.

    Returns:
        `Latents` of arrays.
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
    """Gives u and z of one batch, for a graph. Takes the arguments of `DVPVAE.infer`."""
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
        UserError: if none is given, one is not finite or of another shape, or they differ in their rows.
    """
    shapes = {f"z of layer {number}": shape for number, shape in enumerate(model.top_down.latent_shapes)}
    if len(latents.z) > len(shapes):
        raise UserError(f"The model has {len(shapes)} layers, but there are {len(latents.z)} z.")
    named = [*zip(shapes, latents.z, strict=False), ("u", latents.u)]
    given: dict[str, np.ndarray] = {name: np.asarray(value) for name, value in named if value is not None}
    if not given:
        raise UserError("Give u or at least one z; model.sample draws all of them.")
    if "u" in given and model.pseudoinput is None:
        raise UserError("This model has no pseudoinputs: leave out u.")
    if model.pseudoinput is not None:
        shapes["u"] = model.pseudoinput.shape
    for name, value in given.items():
        if value.shape[1:] != shapes[name] or value.ndim == 0:
            raise UserError(f"The model takes {name} [N, {', '.join(map(str, shapes[name]))}], got {value.shape}.")
        if value.dtype.kind not in "fiu":
            raise UserError(f"{name} must hold real numbers, not {value.dtype}.")
        if not np.isfinite(value).all():
            raise UserError(f"{name} must be finite.")
    rows = {len(value) for value in given.values()}
    if len(rows) > 1 or 0 in rows:
        raise UserError(f"All latents must have one number of rows, at least 1, got {sorted(rows)}.")
    return rows.pop()


def save_latents(path: str | Path, latents: Latents, **arrays: Sequence) -> None:
    """Writes latents as an `.npz` file: `u`, and `z_L` (the top layer) to `z_1`.

    Args:
        path: the file.
        latents: all z of a model given.
        **arrays: others to keep beside them.
    """
    layers = len(latents.z)
    named: dict[str, Any] = {} if latents.u is None else {"u": latents.u}
    named |= {f"z_{layers - index}": z for index, z in enumerate(latents.z)}
    np.savez(path, **(named | arrays))


def load_latents(path: str | Path, layers: int) -> Latents:
    """Reads what `save_latents` has written.

    Args:
        path: the file. Any of its arrays may be missing.
        layers: L, the number of layers of the model.

    Returns:
        `Latents`, None for what the file does not have.

    Raises:
        UserError: if there is no such file, it is damaged, or it has an array that is no latent of the model.
    """
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except Exception as error:  # zipfile, zlib and NumPy raise many types for a damaged or foreign file
        raise UserError(f"{path} cannot be read ({error}): give the .npz file that `encode` has written") from error
    names = [f"z_{number}" for number in range(layers, 0, -1)]
    if unknown := sorted(arrays.keys() - {"u", FILES, *names}):
        raise UserError(
            f"{path} has {list_some(unknown)}, which are no latents of a model of {layers} layers: remove them from "
            "the file"
        )
    return Latents(arrays.get("u"), [arrays.get(name) for name in names])
