"""Gaussian covariances, full or diagonal: of the steps of a calibrated process and the components of a full mixture."""

import math

import numpy as np
import tensorflow as tf

MOST_FULL_ELEMENTS = 300  # of u; a table of full covariances of more would be larger than most models


class FullCovariances:
    """K full covariance matrices, factorised as V = L L^T in double precision.

    Args:
        matrices: float64 `[K, P, P]`, positive definite.
    """

    def __init__(self, matrices: tf.Tensor):
        factors = tf.linalg.cholesky(matrices)
        identity = tf.broadcast_to(tf.eye(matrices.shape[-1], dtype=tf.float64), tf.shape(factors))
        log_diagonal = tf.math.log(tf.linalg.diag_part(factors))
        self.half_log_det = tf.cast(tf.reduce_sum(log_diagonal, axis=1), tf.float32)
        self.factors = tf.cast(factors, tf.float32)
        self.inverses = tf.cast(tf.linalg.triangular_solve(factors, identity), tf.float32)

    @staticmethod
    def width(size: int) -> int:
        """How many numbers a matrix over `size` elements has in a table."""
        return size * (size + 1) // 2

    @staticmethod
    def pack(matrices: np.ndarray) -> np.ndarray:
        """Turns symmetric matrices `[K, P, P]` into rows of a table, float32 `[K, width]`."""
        matrices = np.asarray(matrices)
        row, column = np.tril_indices(matrices.shape[-1])
        packed = np.empty([len(matrices), len(row)], "float32")
        packed[:, _places_in_table(matrices.shape[-1])[row, column]] = matrices[:, row, column]
        return packed

    @staticmethod
    def unpack(rows: tf.Tensor) -> tf.Tensor:
        """Turns rows of a table into symmetric matrices, float64 `[K, P, P]`."""
        size = (math.isqrt(1 + 8 * rows.shape[-1]) - 1) // 2
        return tf.gather(tf.cast(rows, tf.float64), _places_in_table(size), axis=1)

    @classmethod
    def of_steps(cls, rows: tf.Tensor, gain: tf.Tensor) -> "FullCovariances":
        """I + gain C for the matrices C in `rows` of a table; `gain` is float64 `[K]`."""
        matrices = cls.unpack(rows)
        return cls(tf.eye(matrices.shape[-1], dtype=tf.float64) + gain[:, tf.newaxis, tf.newaxis] * matrices)

    @property
    def trace_of_inverse(self) -> tf.Tensor:
        """The trace of V^-1, float32 `[K]`."""
        return tf.reduce_sum(tf.square(self.inverses), axis=[1, 2])

    def colour(self, noise: tf.Tensor) -> tf.Tensor:
        """L e: turns standard normal `[N, K, P]` into draws of the K Gaussians."""
        return tf.einsum("kij,nkj->nki", self.factors, noise)

    def whiten(self, values: tf.Tensor) -> tf.Tensor:
        """L^-1 x of float32 `[N, K, P]`."""
        return tf.einsum("kij,nkj->nki", self.inverses, values)


def _places_in_table(size: int) -> np.ndarray:
    """Where a row of a table holds each element of a symmetric matrix, int `[P, P]`.

    The order is that of saved models, which is `tfp.math.fill_triangular`'s: the elements of a row from number P on,
    and then all of them backwards, fill a square matrix, of which the lower triangle counts.
    """
    width = FullCovariances.width(size)
    square = np.concatenate([np.arange(size, width), np.arange(width)[::-1]]).reshape(size, size)
    return np.where(np.tri(size, dtype=bool), square, square.T)


class DiagonalCovariances:
    """K diagonal covariance matrices, with the methods of `FullCovariances`.

    Args:
        variances: float64 `[K, P]`, positive.
    """

    def __init__(self, variances: tf.Tensor):
        self.half_log_det = tf.cast(0.5 * tf.reduce_sum(tf.math.log(variances), axis=1), tf.float32)
        self.deviations = tf.cast(tf.sqrt(variances), tf.float32)

    @staticmethod
    def width(size: int) -> int:
        """How many numbers a matrix over `size` elements has in a table."""
        return size

    @staticmethod
    def pack(variances: np.ndarray) -> np.ndarray:
        """Turns variances `[K, P]` into rows of a table, float32."""
        return np.asarray(variances, "float32")

    @staticmethod
    def unpack(rows: tf.Tensor) -> tf.Tensor:
        """Turns rows of a table into variances, float64 `[K, P]`."""
        return tf.cast(rows, tf.float64)

    @classmethod
    def of_steps(cls, rows: tf.Tensor, gain: tf.Tensor) -> "DiagonalCovariances":
        """I + gain C for the matrices C in `rows` of a table; `gain` is float64 `[K]`."""
        return cls(1.0 + gain[:, tf.newaxis] * cls.unpack(rows))

    @property
    def trace_of_inverse(self) -> tf.Tensor:
        """The trace of V^-1, float32 `[K]`."""
        return tf.reduce_sum(1.0 / tf.square(self.deviations), axis=1)

    def colour(self, noise: tf.Tensor) -> tf.Tensor:
        """L e: turns standard normal `[N, K, P]` into draws of the K Gaussians."""
        return self.deviations * noise

    def whiten(self, values: tf.Tensor) -> tf.Tensor:
        """L^-1 x of float32 `[N, K, P]`."""
        return values / self.deviations


Covariances = FullCovariances | DiagonalCovariances


def kind_of(size: int) -> type[Covariances]:
    """The kind of covariances that a calibrated process over so many elements has.

    Args:
        size: P, how many elements u has.

    Returns:
        `FullCovariances`, or `DiagonalCovariances` where P is large.
    """
    return FullCovariances if size <= MOST_FULL_ELEMENTS else DiagonalCovariances
