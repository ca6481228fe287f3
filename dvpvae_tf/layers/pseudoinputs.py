"""Pseudoinputs: the transformation f of an image, the noise around it and the way back (Section 3.1 and 3.2).

Each class is r(u|x) = N(f(x), sigma^2 I) (Eq. 9) with its pseudo-inverse; they differ in f (Figures 5 and 6).
"""

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf.errors import UserError
from dvpvae_tf.layers.convolution import uniform_initializer
from dvpvae_tf.layers.dct import DCT, InverseDCT, dct_matrix
from dvpvae_tf.layers.gaussian import LOG_2_PI, log_density
from dvpvae_tf.layers.pixels import check_brightest, check_training_images, iterate_images, to_unit_range
from dvpvae_tf.layers.shape import Shape


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class ClipWeights(keras.constraints.Constraint):
    """Clips a weight to a range after each update.

    Args:
        minimum: lower end of the range.
        maximum: upper end of the range.
    """

    def __init__(self, minimum: float, maximum: float):
        self.minimum = minimum
        self.maximum = maximum

    def __call__(self, value: tf.Tensor) -> tf.Tensor:
        return keras.ops.clip(value, self.minimum, self.maximum)

    def get_config(self) -> dict[str, Any]:
        return {"minimum": self.minimum, "maximum": self.maximum}


def resize_bilinear(images: tf.Tensor, side: int) -> tf.Tensor:
    """Resizes images bilinearly, with half-pixel centres and no antialiasing.

    Args:
        images: float `[N, h, w, C]`.
        side: side of the resized images, in pixels.

    Returns:
        `[N, side, side, C]` of the same dtype.
    """
    if images.shape[1] == side:
        return images
    return tf.cast(tf.image.resize(images, [side, side], method="bilinear"), images.dtype)


class Pseudoinput(keras.layers.Layer):
    """Base class of r(u|x) = N(f(x), sigma^2 I) with a trained sigma (Eq. 9); subclasses define f.

    Called on images, float32 `[N, D, D, C]` in [0, 1], it returns f(x), float32 `[N, d, d, C]`.

    Args:
        size: side d of u.
        sigma_per_element: one log-variance for each element of u (as released), or one for all (as in the paper).
        initial_log_var: initial value of log sigma^2.
        log_var_range: range to which log sigma^2 is clipped in training.
        **kwargs: passed to `keras.layers.Layer`. The dtype is always float32.
    """

    bounded = True  # whether every f(x) lies in [-1, 1]

    def __init__(
        self,
        size: int,
        sigma_per_element: bool = True,
        initial_log_var: float = -6.0,
        log_var_range: tuple[float, float] = (-12.0, 2.0),
        **kwargs: Any,
    ):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.size = size
        self.sigma_per_element = sigma_per_element
        self.initial_log_var = initial_log_var
        self.log_var_range = tuple(log_var_range)

    def build(self, input_shape: Shape) -> None:
        _, side, _, channels = input_shape
        if self.size > side:
            raise ValueError(f"A pseudoinput of size {self.size} does not fit images of {side} pixels a side.")
        self.image_shape = (side, side, channels)
        self.shape = (self.size, self.size, channels)
        self.log_var = self.add_weight(
            shape=self.shape if self.sigma_per_element else (),
            initializer=keras.initializers.Constant(self.initial_log_var),
            constraint=ClipWeights(*self.log_var_range),
            autocast=False,
            name="log_var",
        )

    @property
    def dimensions(self) -> int:
        """P, the number of elements of u."""
        return math.prod(self.shape)

    @property
    def adapted(self) -> bool:
        """Whether `adapt` has been called, if this kind needs it."""
        return True

    def adapt(self, images: tf.data.Dataset | np.ndarray) -> None:
        """Computes from training images what f needs; most kinds need nothing, and only check the images.

        Args:
            images: `tf.data.Dataset` of batches, or array, `[N, D, D, C]`: float32 in [0, 1] or uint8.

        Raises:
            ValueError: if there are no images, the data never end, their shape, dtype or range is wrong, or they are
                uint8 of 0 and 1.
        """
        check_training_images(images, self.image_shape)

    def sample(self, mean: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Draws u from r(u|x) (Eq. 9).

        Args:
            mean: float32 tensor `[N, d, d, C]`, f(x).
            noise: float32 tensor like `mean`, standard normal.

        Returns:
            float32 tensor like `mean`.
        """
        return mean + tf.exp(0.5 * self.log_var) * noise

    def log_prob(self, u: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
        """Computes log r(u|x) (Eq. 9).

        Args:
            u: float32 tensor `[N, d, d, C]`.
            mean: float32 tensor like `u`, f(x).

        Returns:
            float32 tensor `[N]`, nats.
        """
        return tf.reduce_sum(log_density(u, mean, self.log_var), axis=[1, 2, 3])

    def entropy(self) -> tf.Tensor:
        """Computes the entropy of r(u|x) in closed form (Eq. 17).

        Returns:
            float32 scalar tensor, nats.
        """
        return 0.5 * tf.reduce_sum(tf.broadcast_to(self.log_var, self.shape) + LOG_2_PI + 1.0)

    def decode(self, u: tf.Tensor) -> tf.Tensor:
        """Maps pseudoinputs back to images, the pseudo-inverse of f.

        Args:
            u: float32 tensor `[N, d, d, C]`.

        Returns:
            float32 tensor `[N, D, D, C]`, pixels. An unlikely u may give pixels outside [0, 1].
        """
        return (resize_bilinear(u, self.image_shape[0]) + 1.0) / 2.0

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.size, self.size, input_shape[3])

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "size": self.size,
            "sigma_per_element": self.sigma_per_element,
            "initial_log_var": self.initial_log_var,
            "log_var_range": self.log_var_range,
        }


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class DCTPseudoinput(Pseudoinput):
    """The lowest frequencies of an image, each divided by its largest absolute value S (Algorithms 1 and 2).

    S is found by `adapt`. Takes the arguments of `Pseudoinput`, with the same shapes.
    """

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.dct = DCT(self.size, dtype="float32", name="dct")
        self.inverse_dct = InverseDCT(self.image_shape[0], dtype="float32", name="inverse_dct")
        self.dct.build(input_shape)
        self.inverse_dct.build((None, *self.shape))
        # Minus one says "not adapted yet": no maximum of absolute values is negative.
        initializer = keras.initializers.Constant(-1.0)
        self.scale = self.add_weight(
            shape=self.shape, initializer=initializer, trainable=False, autocast=False, name="scale"
        )

    @property
    def adapted(self) -> bool:
        """Whether `adapt` has computed S."""
        return bool(np.all(self.scale.numpy() >= 0))

    def adapt(self, images: tf.data.Dataset | np.ndarray) -> None:
        """Computes S, the largest absolute value of each frequency and channel over the training images (Algorithm 1).

        Args:
            images: array `[N, D, D, C]`, float in [0, 1] or uint8, or `tf.data.Dataset` of batches of images, alone,
                first in a tuple, or under "image" in a dictionary.

        Raises:
            ValueError: if there are no images, the data never end, the shape, the dtype or the range is wrong, or they
                are uint8 of 0 and 1.
        """
        largest = tf.function(lambda batch: tf.reduce_max(tf.abs(self.dct(batch)), axis=0))
        scale, brightest = None, 0.0
        for batch in iterate_images(images):
            maximum = largest(to_unit_range(batch, self.image_shape))
            brightest = max(brightest, float(tf.reduce_max(batch)))
            scale = maximum if scale is None else tf.maximum(scale, maximum)
        if scale is None:
            raise ValueError("adapt() was given no images.")
        check_brightest(batch.dtype, brightest)
        # A frequency that no image has comes out as a rounding error, not as 0.
        self.scale.assign(tf.where(scale > 1e-6 * self.image_shape[0], scale, 0.0))

    def call(self, images: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(tf.math.divide_no_nan(self.dct(images), self.scale), -1.0, 1.0)

    def from_small_images(self, images: tf.Tensor) -> tf.Tensor:
        """Computes f(x) of large images from small ones. Each pixel of a small image is the mean over a square.

        A mean over m pixels shrinks the cosine of frequency k by sin(m a) / (m sin a), with a = pi k / 2D. This is
        corrected. Frequencies that the small image does not have are 0 in the large one.

        Args:
            images: `[N, s, s, C]`: uint8, or float in [0, 1]; s is at least d and at most D.

        Returns:
            float32 `[N, d, d, C]` in [-1, 1].

        Raises:
            UserError: if the images are of another shape, type or range; a `ValueError`, of one line.
        """
        large, _, channels = self.image_shape
        small = images.shape[1]
        if not self.size <= small <= large or tuple(images.shape[1:]) != (small, small, channels):
            sizes = f"[N, s, s, {channels}] with s from {self.size} to {large}"
            raise UserError(f"Small images must be {sizes}, got {tuple(images.shape)}.")
        factor, angle = large / small, np.pi * np.arange(self.size) / (2 * large)
        shrunk = np.ones(self.size)
        shrunk[1:] = np.sin(factor * angle[1:]) / (factor * np.sin(angle[1:]))
        gains = tf.constant(factor / np.outer(shrunk, shrunk)[..., np.newaxis], tf.float32)
        basis = dct_matrix(small)[: self.size]
        frequencies = tf.einsum("kh,nhwc,lw->nklc", basis, to_unit_range(images), basis)
        return tf.clip_by_value(tf.math.divide_no_nan(gains * frequencies, self.scale), -1.0, 1.0)

    def decode(self, u: tf.Tensor) -> tf.Tensor:
        """Maps pseudoinputs back to images (Algorithm 2): scales by S, inverts the DCT, clips to the range of images.

        Args:
            u: float32 tensor `[N, d, d, C]`.

        Returns:
            float32 tensor `[N, D, D, C]` in [0, 1].
        """
        return tf.clip_by_value(self.inverse_dct(u * self.scale), 0.0, 1.0)


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class DownsamplePseudoinput(Pseudoinput):
    """A bilinearly downsampled image in [-1, 1] (Figure 5). Arguments as in `Pseudoinput`.

    Maps float32 `[N, D, D, C]` in [0, 1] to float32 `[N, d, d, C]`.
    """

    def call(self, images: tf.Tensor) -> tf.Tensor:
        return resize_bilinear(2.0 * images - 1.0, self.size)


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class LearnablePseudoinput(Pseudoinput):
    """A trained linear map of an image in [-1, 1] (Figure 6). Arguments as in `Pseudoinput`.

    Maps float32 `[N, D, D, C]` in [0, 1] to float32 `[N, d, d, C]`.
    """

    bounded = False

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        initializer = uniform_initializer()
        self.linear = keras.layers.Dense(
            self.dimensions, kernel_initializer=initializer, dtype="float32", name="linear"
        )
        self.linear.build((None, math.prod(self.image_shape)))

    def call(self, images: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(2.0 * images - 1.0, [-1, math.prod(self.image_shape)])
        return tf.reshape(self.linear(flat), [-1, *self.shape])
