"""Random numbers as a function of (seed, stream, row): one key a row, so no result depends on the batch it is in.

The bits come from TensorFlow's Philox generator and are turned into numbers here: TensorFlow's own functions give other
numbers under XLA.
"""

import enum
import math
import numbers
from collections.abc import Sequence

import tensorflow as tf

PHILOX = 1


class Stream(enum.IntEnum):
    """Streams of noise beside those of the training steps 0, 1, ..."""

    EVALUATION = -1
    SAMPLING = -2
    CALIBRATION = -3  # of a prior, on training images
    CALIBRATION_VALIDATION = -4  # and on validation images
    FIRST_DRAW = -16  # where an image is drawn for several times: draw k of it has the stream FIRST_DRAW - k


class Purpose(enum.IntEnum):
    """What the noise of a row is for.

    Two purposes share a number where no row serves both: the one when an image is given, the other when one is made.
    """

    TARGET = 0  # an image given: the binary draw that the likelihood scores
    INFERENCE = 1  # an image given: all of u, its score, and z
    LATENTS = 1  # an image made: z
    PIXELS = 2  # an image made: x given z
    PSEUDOINPUT = 3  # an image made: u
    COMPONENT = 4  # an image made: the component of a VampPrior
    RELEASED_ESTIMATE = 4  # an image given: the released code's estimate of log r(u)


def check_seed(seed: int) -> None:
    """Checks that a seed has 32 bits.

    Args:
        seed: the user's seed.

    Raises:
        ValueError: if it has more, or is no whole number.
    """
    if not isinstance(seed, numbers.Integral) or not -(2**31) <= seed < 2**31:
        raise ValueError(f"A seed is a whole number below 2^31, got {seed!r}.")


def row_seeds(
    seed: int | tf.Tensor, stream: int | tf.Tensor, first_row: int | tf.Tensor, num_rows: int | tf.Tensor
) -> tf.Tensor:
    """Gives each row of a batch a key of its own.

    Args:
        seed: of 32 bits, the user's; a tensor is int32.
        stream: a `Stream`, or the number of a training step; rows of two streams share no noise.
        first_row: index of the first row in the global batch or data set.
        num_rows: the number of rows.

    Returns:
        int32 `[num_rows, 2]`, keys for `normal` or `uniform`. Use a key once: two draws from one key are not
        independent.

    Raises:
        ValueError: if the seed is larger, or no whole number.
    """
    if not tf.is_tensor(seed):
        check_seed(seed)
        seed = tf.constant(seed, tf.int32)
    if isinstance(stream, int):
        stream = int(stream)  # TensorFlow takes no `Stream`
    place = tf.stack([seed, tf.cast(stream, tf.int32)])
    # Random, so that the rows of one stream do not run into those of the next.
    key = tf.bitcast(_bits(place[tf.newaxis], 2), tf.int32)[0]
    rows = tf.cast(first_row, tf.int32) + tf.range(num_rows)
    return tf.stack([tf.fill([num_rows], key[0]), key[1] + rows], axis=1)


def keys_of(seeds: tf.Tensor, stream: int) -> tf.Tensor:
    """Gives each row the key of a seed of its own, that of row 0 of `row_seeds(seed, stream, 0, 1)`.

    Args:
        seeds: int64 `[N]`, any number; `row_seeds` itself takes those from 0 to 2^31 - 1.
        stream: `Stream` or int, see `row_seeds`.

    Returns:
        int32 `[N, 2]`, see `row_seeds`.
    """
    low, high = tf.unstack(tf.bitcast(seeds, tf.int32), axis=1)
    places = tf.stack([low, tf.bitwise.bitwise_xor(high, int(stream))], axis=1)
    return tf.bitcast(_bits(places, 2), tf.int32)


def normal(seeds: tf.Tensor, size: int) -> tf.Tensor:
    """Draws standard normal numbers, each row from its own key.

    Args:
        seeds: int32 `[N, 2]`, see `row_seeds`.
        size: numbers a row.

    Returns:
        float32 `[N, size]`.
    """
    radius, angle = tf.split(uniform(seeds, size + size % 2), 2, axis=1)  # the Box-Muller transform
    radius, angle = tf.sqrt(-2.0 * tf.math.log(1.0 - radius)), 2.0 * math.pi * angle
    return tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=1)[:, :size]


def uniform(seeds: tf.Tensor, size: int) -> tf.Tensor:
    """Draws numbers from U[0, 1), each row from its own key.

    Args:
        seeds: int32 `[N, 2]`, see `row_seeds`.
        size: numbers a row.

    Returns:
        float32 `[N, size]`, multiples of 2^-24.
    """
    bits = tf.ensure_shape(_bits(seeds, size), [seeds.shape[0], size])
    return tf.cast(tf.bitwise.right_shift(bits, 8), tf.float32) * 2.0**-24


@tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int32), tf.TensorSpec([], tf.int32)])
def _bits(seeds, size):
    """Random bits, uint32 `[N, size]`; a compiled function because an eager loop over rows is slow."""

    def row(seed):
        key, counter = tf.bitcast(seed, tf.uint64)[tf.newaxis], tf.zeros([2], tf.uint64)
        return tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=[size], key=key, counter=counter, alg=PHILOX, dtype=tf.uint32
        )

    rows = tf.shape(seeds)[0]
    padded = tf.pad(seeds, [[0, tf.cast(rows == 0, tf.int32)], [0, 0]])  # map_fn needs a row
    return tf.map_fn(row, padded, fn_output_signature=tf.TensorSpec([None], tf.uint32))[:rows]


def normals(seeds: tf.Tensor, shapes: Sequence[tuple[int, ...]]) -> list[tf.Tensor | None]:
    """Draws several arrays of standard normal numbers a row, all from the row's one key.

    Args:
        seeds: int32 `[N, 2]`, see `row_seeds`.
        shapes: list of tuples of ints, the shapes of the arrays of a row.

    Returns:
        list of float32 tensors `[N, *shape]`; None in place of an array without elements.
    """
    sizes = [math.prod(shape) for shape in shapes]
    parts = tf.split(normal(seeds, sum(sizes)), sizes, axis=1)
    return [
        tf.reshape(part, [-1, *shape]) if size else None for part, shape, size in zip(parts, shapes, sizes, strict=True)
    ]


def fork(seeds: tf.Tensor, purpose: int) -> tf.Tensor:
    """Derives keys for one purpose from the keys of rows.

    Args:
        seeds: int32 `[N, 2]`, see `row_seeds`.
        purpose: a `Purpose`; `TARGET` gives the same keys.

    Returns:
        int32 `[N, 2]`.
    """
    return tf.bitwise.bitwise_xor(seeds, tf.constant([int(purpose) * 0x3C6EF35F % 2**31, 0], tf.int32))


def to_uniform(values: tf.Tensor) -> tf.Tensor:
    """Turns standard normal numbers into U(0, 1) ones, through the normal distribution's own function.

    Args:
        values: float32 tensor, standard normal.

    Returns:
        float32 tensor of the same shape in [0, 1].
    """
    return 0.5 * tf.math.erfc(-values / 2.0**0.5)
