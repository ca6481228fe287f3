"""What `fit`, `evaluate` and `predict` take: checked before anything is traced, with errors of one line."""

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf.layers.pixels import RANGE, check_brightest, check_images, take_images, to_unit_range


def checked_data(data: Any, image_shape: tuple[int, int, int], jit_compile: bool) -> Any:
    """Checks as much of the data as it can before anything is traced, and the rest while data are read.

    Args:
        data: an array, a data set, or what else Keras takes.
        image_shape: `(D, D, C)`, as the model has it.
        jit_compile: whether XLA compiles the model. It drops assertions, so that pixels are checked as they are read.

    Returns:
        The data.

    Raises:
        ValueError: if the images are of another shape, type or range, or a list, or a data set is not batched.
    """
    if isinstance(data, list):
        raise ValueError("Give images as one array, such as np.stack(images): Keras takes a list for several inputs.")
    if isinstance(data, tf.data.Dataset):
        images = images_of(data.element_spec)
        if isinstance(images, tf.TensorSpec):
            if images.shape == tuple(image_shape):
                raise ValueError("The data set yields one image at a time: make batches, as with .batch(100).")
            if not images.shape[1:].is_fully_defined():
                raise ValueError(
                    "The data set does not know the shape of its images: pass each batch through "
                    f"tf.ensure_shape(images, {[None, *image_shape]}) with map."
                )
            check_images(np.zeros([0, *images.shape[1:]], images.dtype.as_numpy_dtype), image_shape)
        if jit_compile and images.dtype.is_floating:
            data = data.map(_assert_pixels, num_parallel_calls=tf.data.AUTOTUNE)
    elif isinstance(data, (np.ndarray, tf.Tensor, tuple, dict)):
        images = images_of(data)
        if isinstance(images, (np.ndarray, tf.Tensor)):
            check_images(images, image_shape)
    return data


def check_arrays_are_bright(*data: Any) -> None:
    """Checks that no array holds uint8 images of 0 and 1. Batches of data sets are left to `adapt`.

    Args:
        *data: all images of training or of an evaluation, which `checked_data` has checked.

    Raises:
        ValueError: if one does.
    """
    for each in data:
        images = images_of(each) if isinstance(each, (np.ndarray, tf.Tensor, tuple, dict)) else None
        if isinstance(images, (np.ndarray, tf.Tensor)) and len(images):
            check_brightest(images.dtype, np.max(images))


def images_of(data: Any) -> Any:
    """Takes the images out of what a data set yields.

    Args:
        data: images, a tuple of images and labels, or a dictionary with "image", as TensorFlow Datasets have.

    Returns:
        The images.

    Raises:
        ValueError: if the dictionary has no "image", or there are sample weights.
    """
    images, _, weights = keras.utils.unpack_x_y_sample_weight(data)
    refuse({"sample weights": weights}, "all images count alike")
    return take_images(images)


def refuse(arguments: dict[str, Any], reason: str) -> None:
    """Refuses arguments that would not be used.

    Args:
        arguments: by their names; None stands for one that is left out.
        reason: why they would not be used, for the message.

    Raises:
        ValueError: if one is given.
    """
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise ValueError(f"Leave out {' and '.join(given)}: {reason}.")


def bind_arguments(method: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Names the arguments of a call of `fit`, `evaluate`, `train_on_batch` or `test_on_batch`.

    Args:
        method: Keras's method.
        args: its arguments by place.
        kwargs: its arguments by name.

    Returns:
        All of them by name; those that are left out are missing.

    Raises:
        ValueError: if there are weights of classes or samples.
    """
    given = inspect.signature(method).bind_partial(*args, **kwargs).arguments
    given |= given.pop("kwargs", {})
    refuse({name: given.get(name) for name in ("class_weight", "sample_weight")}, "all images count alike")
    return given


@contextlib.contextmanager
def one_line_for_pixels() -> Iterator[None]:
    """Turns the error of a graph that finds pixels out of range, buried under its traceback, into one line.

    Raises:
        ValueError: instead of that error.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if RANGE not in error.message:
            raise
        raise ValueError(f"{RANGE}: divide 0..255 by 255.") from None


def _assert_pixels(*data: Any) -> Any:
    """The element of a data set, its images checked as it is read."""
    data = data[0] if len(data) == 1 else data
    with tf.control_dependencies([to_unit_range(images_of(data))]):
        return tf.nest.map_structure(tf.identity, data)
