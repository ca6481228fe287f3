"""The discrete cosine transform and its inverse (Section 3.2)."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf.layers.shape import Shape


def dct_matrix(side: int) -> np.ndarray:
    """Computes the orthonormal DCT-II matrix C of Section 3.2.

    Args:
        side: D.

    Returns:
        float32 array `[D, D]`; row k holds the cosine of frequency k.
    """
    frequency, position = np.arange(side)[:, None], np.arange(side)[None, :]
    matrix = np.sqrt(2 / side) * np.cos(np.pi / side * (position + 0.5) * frequency)
    matrix[0] = np.sqrt(1 / side)
    return matrix.astype("float32")


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class DCT(keras.layers.Layer):
    """The orthonormal two-dimensional DCT-II of each channel, cropped to its lowest frequencies (Section 3.2).

    Maps `[N, D, D, C]` to `[N, size, size, C]` in the compute dtype.

    Args:
        size: number of frequencies kept in each direction; None keeps all.
        **kwargs: passed to `keras.layers.Layer`.

    Raises:
        ValueError: on build, if the images are not square or are smaller than `size`.
    """

    def __init__(self, size: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.size = size

    def build(self, input_shape: Shape) -> None:
        _, height, width, _ = input_shape
        if height != width or (self.size or 0) > height:
            raise ValueError(
                f"DCT needs square images of at least {self.size or 1} pixels a side, got {height} x {width}."
            )
        self.basis = dct_matrix(height)[: self.size]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        basis = keras.ops.cast(self.basis, self.compute_dtype)
        return keras.ops.einsum("kh,nhwc,lw->nklc", basis, inputs, basis)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        size = self.size or input_shape[1]
        return (input_shape[0], size, size, input_shape[3])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable(package="dvpvae_tf")
class InverseDCT(keras.layers.Layer):
    """The inverse of `DCT`; missing frequencies count as zero (Algorithm 2).

    Maps `[N, d, d, C]` to `[N, size, size, C]` in the compute dtype.

    Args:
        size: side D of the images.
        **kwargs: passed to `keras.layers.Layer`.

    Raises:
        ValueError: on build, if there are more frequencies than pixels.
    """

    def __init__(self, size: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.size = size

    def build(self, input_shape: Shape) -> None:
        frequencies = input_shape[1]
        if frequencies > self.size:
            raise ValueError(
                f"InverseDCT to {self.size} pixels a side takes at most as many frequencies, got {frequencies}."
            )
        self.basis = dct_matrix(self.size)[:frequencies]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        basis = keras.ops.cast(self.basis, self.compute_dtype)
        return keras.ops.einsum("kh,nklc,lw->nhwc", basis, inputs, basis)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return (input_shape[0], self.size, self.size, input_shape[3])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size}
