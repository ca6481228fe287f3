"""Images as this library takes them: uint8, or float in [0, 1]. The only place that checks them."""

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf.errors import UserError

RANGE = "Images must be uint8, or floats in [0, 1]"


def check_images(images: np.ndarray | tf.Tensor, image_shape: tuple[int, ...] | None = None) -> None:
    """Checks the shape, the dtype and the range of images. Call it before a compiled function: XLA drops assertions.

    Args:
        images: array or eager tensor `[N, H, W, C]`.
        image_shape: `(H, W, C)` that the images must have; None for any size with 1 or 3 channels.

    Raises:
        UserError: if one of the three is wrong; a `ValueError`, of one line.
    """
    if problem := _find_problem(images, image_shape):
        raise UserError(problem)
    if images.dtype == np.uint8 or len(images) == 0:
        return
    low, high = (float(limit) for limit in (np.min(images), np.max(images)))
    if not np.isfinite([low, high]).all():
        raise UserError(f"{RANGE}, got NaN or infinity: are they from a model that has diverged?")
    if low < 0 or high > 1:
        raise UserError(f"{RANGE}: divide 0..255 by 255. Got values from {low:.4g} to {high:.4g}.")


def check_brightest(dtype: tf.DType | np.dtype, brightest: float) -> None:
    """Checks that uint8 images of a data set are not black and white as 0 and 1, which would be nearly black.

    Args:
        dtype: of the images.
        brightest: the largest value of all of them.

    Raises:
        UserError: if they are.
    """
    if dtype == np.uint8 and brightest == 1:
        raise UserError("These uint8 images have no value above 1 of 255: multiply them by 255, or give float32.")


def check_training_images(images: tf.data.Dataset | np.ndarray, image_shape: tuple[int, ...]) -> None:
    """Checks training images that nothing is computed from. It reads uint8 images up to the first that is not black.

    Args:
        images: array `[N, H, W, C]`, or batches that `take_images` takes.
        image_shape: `(H, W, C)` that the images must have.

    Raises:
        ValueError: if there are no images, the data never end, the shape, the dtype or the range of those that are read
            is wrong, or they are uint8 of 0 and 1.
    """
    brightest, batch = 0.0, None
    for batch in iterate_images(images):
        check_images(batch, image_shape)
        brightest = max(brightest, float(tf.reduce_max(batch)))
        if batch.dtype != tf.uint8 or brightest > 1:
            return
    if batch is None:
        raise UserError("adapt() was given no images.")
    check_brightest(batch.dtype, brightest)


def to_unit_range(images: tf.Tensor, image_shape: tuple[int, ...] | None = None) -> tf.Tensor:
    """Converts images to floats in [0, 1] and checks them.

    A graph asserts the range of float images. XLA drops that assertion, so pixels out of range become NaN there.

    Args:
        images: uint8 tensor, or float tensor in [0, 1], `[N, H, W, C]`.
        image_shape: `(H, W, C)` that the images must have; None for any size with 1 or 3 channels.

    Returns:
        float32 tensor in [0, 1], of the same shape.

    Raises:
        ValueError: if the shape or the dtype is wrong; eagerly, if float images leave [0, 1].
        tf.errors.InvalidArgumentError: in a graph, if float images leave [0, 1].
    """
    if tf.executing_eagerly():
        check_images(images, image_shape)
    elif problem := _find_problem(images, image_shape):
        raise ValueError(problem)  # of Python's own type, as AutoGraph hides others
    if images.dtype == tf.uint8:
        return tf.cast(images, tf.float32) / 255.0
    images = tf.cast(images, tf.float32)
    return images if tf.executing_eagerly() else _assert_unit_range(images)


def _assert_unit_range(images):
    inside = in_unit_range(images)
    message = [f"{RANGE}: divide 0..255 by 255", tf.reduce_min(images), tf.reduce_max(images)]
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(inside), message)]):
        return tf.where(inside, images, float("nan"))


def take_images(batch: tf.Tensor | tuple | list | dict) -> tf.Tensor:
    """Takes the images out of a batch of a data set.

    Args:
        batch: images alone, first in a tuple with labels, or under "image" in a dictionary, as in TFDS.

    Returns:
        The images.

    Raises:
        ValueError: if a dictionary has no "image".
    """
    images = batch if isinstance(batch, dict) else keras.utils.unpack_x_y_sample_weight(batch)[0]
    if not isinstance(images, dict):
        return images
    if "image" not in images:
        raise ValueError(f"A batch must be images, (images, labels) or have the key 'image', got {sorted(images)}.")
    return images["image"]


def iterate_images(data: tf.data.Dataset | np.ndarray, batch_size: int = 256) -> Iterator[tf.Tensor]:
    """Goes once through all images.

    Args:
        data: array `[N, H, W, C]`, or batches that `take_images` takes.
        batch_size: images in a batch of an array.

    Yields:
        Batches of images as they are.

    Raises:
        ValueError: if the data never end.
    """
    if not isinstance(data, tf.data.Dataset):
        data = tf.data.Dataset.from_tensor_slices(data).batch(batch_size)
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("These data never end: give data without repeat(), or the first batches with take(number).")
    return (take_images(batch) for batch in data)


def gather_images(data: tf.data.Dataset | np.ndarray) -> np.ndarray:
    """Gathers all images in one array.

    Args:
        data: array `[N, H, W, C]`, which is returned as it is, or batches that `take_images` takes.

    Returns:
        `[N, H, W, C]` of the dtype of the batches.

    Raises:
        ValueError: if there are none, or the data never end.
    """
    batches = iterate_images(data) if isinstance(data, tf.data.Dataset) else [data]
    arrays = [np.asarray(batch) for batch in batches]
    if not sum(map(len, arrays)):
        raise ValueError("There are no images.")
    return np.concatenate(arrays) if len(arrays) > 1 else arrays[0]


def in_unit_range(images: tf.Tensor) -> tf.Tensor:
    """Finds the pixels in [0, 1].

    Args:
        images: float tensor of any shape.

    Returns:
        bool tensor of that shape; False for NaN.
    """
    return (images >= 0.0) & (images <= 1.0)


def _find_problem(images, image_shape):
    """Describes a wrong shape or dtype; None if both are right."""
    shape, dtype = tuple(images.shape), tf.as_dtype(images.dtype)
    if image_shape is None:
        if len(shape) != 4 or shape[-1] not in (1, 3):
            return f"Images must be [N, H, W, 1 or 3], got {shape}."
    elif shape[1:] != tuple(image_shape):
        return f"The model takes images [N, {', '.join(map(str, image_shape))}], got {shape}."
    if dtype != tf.uint8 and not dtype.is_floating:
        return f"{RANGE}, got {dtype.name}."
    return None
