"""Pseudoinputs: the transformation f of an image, the noise around it and the way back (Section 3.1 and 3.2).

Each class is r(u|x) = N(f(x), sigma^2 I) (Eq. 9) with its pseudo-inverse; they differ in f (Figures 5 and 6).
"""

import math

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf.layers.convolution import uniform_initializer
from dvpvae_tf.layers.dct import DCT, InverseDCT
from dvpvae_tf.layers.pixels import to_unit_range


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class ClipWeights(keras.constraints.Constraint):
    """Keeps a weight in a range.

    Args:
        minimum: float.
        maximum: float.
    """

    def __init__(self, minimum, maximum):
        self.minimum = minimum
        self.maximum = maximum

    def __call__(self, value):
        return keras.ops.clip(value, self.minimum, self.maximum)

    def get_config(self):
        return {"minimum": self.minimum, "maximum": self.maximum}


def resize_bilinear(images, side):
    """Resizes bilinearly with half-pixel centres and no antialiasing.

    Args:
        images: float tensor `[N, h, w, C]`.
        side: int.

    Returns:
        Tensor `[N, side, side, C]` of the same dtype.
    """
    if images.shape[1] == side:
        return images
    return tf.cast(tf.image.resize(images, [side, side], method="bilinear"), images.dtype)


class Pseudoinput(keras.layers.Layer):
    """r(u|x) = N(f(x), sigma^2 I) with a trained sigma (Eq. 9), the base of the kinds below.

    Called on images, float32 `[N, D, D, C]` in [0, 1], it gives f(x), float32 `[N, d, d, C]`.

    Args:
        size: int, d.
        sigma_per_element: bool, a log-variance for each element of u (as released) or one for all (as in the paper).
        initial_log_var: float, where log sigma^2 starts.
        log_var_range: pair of floats that log sigma^2 is kept in during training.
        **kwargs: passed to `keras.layers.Layer`. The dtype is float32 always.
    """

    bounded = True  # whether every f(x) lies in [-1, 1]

    def __init__(self, size, sigma_per_element=True, initial_log_var=-6.0, log_var_range=(-12.0, 2.0), **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.size = size
        self.sigma_per_element = sigma_per_element
        self.initial_log_var = initial_log_var
        self.log_var_range = tuple(log_var_range)

    def build(self, input_shape):
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
    def dimensions(self):
        """int, P: how many elements u has."""
        return math.prod(self.shape)

    @property
    def adapted(self):
        """bool, whether all that `adapt` computes is there."""
        return True

    def adapt(self, images):
        """Computes from training images what the transformation needs; nothing for most kinds.

        Args:
            images: `tf.data.Dataset` of batches, or array, `[N, D, D, C]`: float32 in [0, 1] or uint8.
        """

    def sample(self, mean, noise):
        """Draws u from r(u|x) (Eq. 9).

        Args:
            mean: float32 tensor `[N, d, d, C]`, f(x).
            noise: float32 tensor like `mean`, standard normal.

        Returns:
            float32 tensor like `mean`.
        """
        return mean + tf.exp(0.5 * self.log_var) * noise

    def log_prob(self, u, mean):
        """Computes log r(u|x) (Eq. 9).

        Args:
            u: float32 tensor `[N, d, d, C]`.
            mean: float32 tensor like `u`, f(x).

        Returns:
            float32 tensor `[N]`, nats.
        """
        distance = tf.square(u - mean) * tf.exp(-self.log_var)
        return -0.5 * tf.reduce_sum(distance + self.log_var + math.log(2 * math.pi), axis=[1, 2, 3])

    def entropy(self):
        """The entropy of r(u|x), in closed form (Eq. 17).

        Returns:
            float32 scalar tensor, nats.
        """
        return 0.5 * tf.reduce_sum(tf.broadcast_to(self.log_var, self.shape) + math.log(2 * math.pi) + 1.0)

    def decode(self, u):
        """Maps pseudoinputs back to images, the pseudo-inverse of f.

        Args:
            u: float32 tensor `[N, d, d, C]`.

        Returns:
            float32 tensor `[N, D, D, C]`, on the scale of pixels in [0, 1], which unlikely u exceed.
        """
        return (resize_bilinear(u, self.image_shape[0]) + 1.0) / 2.0

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.size, self.size, input_shape[3])

    def get_config(self):
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

    S is found by `adapt`. Arguments and shapes are those of `Pseudoinput`.
    """

    def build(self, input_shape):
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
    def adapted(self):
        """bool, whether S is there."""
        return bool(np.all(self.scale.numpy() >= 0))

    def adapt(self, images):
        """Computes S, the largest absolute value of each frequency and channel over the training images (Algorithm 1).

        Args:
            images: `tf.data.Dataset` of batches, or array, `[N, D, D, C]`: float32 in [0, 1] or uint8.

        Raises:
            ValueError: if there are no images or they are not as said.
        """
        if not isinstance(images, tf.data.Dataset):
            images = tf.data.Dataset.from_tensor_slices(images).batch(256)
        largest = tf.function(lambda batch: tf.reduce_max(tf.abs(self.dct(batch)), axis=0))
        scale = None
        for batch in images:
            batch = keras.utils.unpack_x_y_sample_weight(batch)[0]
            maximum = largest(to_unit_range(batch, self.image_shape))
            scale = maximum if scale is None else tf.maximum(scale, maximum)
        if scale is None:
            raise ValueError("adapt() was given no images.")
        # A frequency that no image has comes out as a rounding error, not as 0.
        self.scale.assign(tf.where(scale > 1e-6 * self.image_shape[0], scale, 0.0))

    def call(self, images):
        return tf.clip_by_value(tf.math.divide_no_nan(self.dct(images), self.scale), -1.0, 1.0)

    def decode(self, u):
        """Maps pseudoinputs back to images (Algorithm 2): scales by S, inverts the DCT, clips to the range of images.

        Args:
            u: float32 tensor `[N, d, d, C]`.

        Returns:
            float32 tensor `[N, D, D, C]` in [0, 1].
        """
        return tf.clip_by_value(self.inverse_dct(u * self.scale), 0.0, 1.0)


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class DownsamplePseudoinput(Pseudoinput):
    """A bilinearly downsampled image in [-1, 1] (Figure 5). Arguments and shapes are those of `Pseudoinput`."""

    def call(self, images):
        return resize_bilinear(2.0 * images - 1.0, self.size)


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class LearnablePseudoinput(Pseudoinput):
    """A trained linear map of an image in [-1, 1] (Figure 6). Arguments and shapes are those of `Pseudoinput`."""

    bounded = False

    def build(self, input_shape):
        super().build(input_shape)
        initializer = uniform_initializer()
        self.linear = keras.layers.Dense(
            self.dimensions, kernel_initializer=initializer, dtype="float32", name="linear"
        )
        self.linear.build((None, math.prod(self.image_shape)))

    def call(self, images):
        flat = tf.reshape(2.0 * images - 1.0, [-1, math.prod(self.image_shape)])
        return tf.reshape(self.linear(flat), [-1, *self.shape])
