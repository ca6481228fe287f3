"""Random numbers as a function of (seed, stream, row): one key a row, so no result depends on the batch it is in.

The bits come from the Philox generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
They are computed for all rows at once, without a loop. They are turned into numbers here, as TensorFlow's own functions
give other numbers under XLA.
"""

import enum
import math
import numbers
from collections.abc import Sequence

import tensorflow as tf

PHILOX_ROUNDS = 10
PHILOX_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
PHILOX_WEYL = 0x9E3779B9, 0xBB67AE85
LOW_WORD = 2**32 - 1


class Stream(enum.IntEnum):
    """Streams of noise beside those of the training steps 0, 1, ..."""

    EVALUATION = -1
    SAMPLING = -2
    CALIBRATION = -3  # of a prior: y_t, for training images
    CALIBRATION_VALIDATION = -4  # and for validation images
    PSEUDOINPUTS = -5  # the draws of u that a prior is fitted to, of training images
    VALIDATION_PSEUDOINPUTS = -6  # and of validation images
    FIRST_DRAW = -16  # where an image is drawn for several times: draw k of it has the stream FIRST_DRAW - k
    FIRST_INPAINTED = -(2**30)  # the same for the draws of inpainting


class InferenceNoise(enum.IntEnum):
    """What the noise of a row is used for when an image is given."""

    TARGET = 0  # the binary draw that is the likelihood's target
    DRAW = 1  # u, the estimate of log r(u), and z, all from one array
    PUBLISHED_ESTIMATE = 4  # the estimate of log r(u) in `published`


class GenerationNoise(enum.IntEnum):
    """What a row's noise is for where an image is made.

    A number occurs in both enumerations only where no row needs it for both.
    """

    LATENTS = 1  # z
    PIXELS = 2  # x given z
    PSEUDOINPUT = 3  # u
    COMPONENT = 4  # the component of a VampPrior


def check_seed(seed: int) -> None:
    """Checks that a seed has 32 bits.

    Args:
        seed: the user's seed.

    Raises:
        ValueError: if it has more, or is no whole number.
    """
    if not isinstance(seed, numbers.Integral) or not -(2**31) <= seed < 2**31:
        raise ValueError(f"A seed is a whole number from -2^31 to 2^31 - 1, got {seed!r}.")


def row_seeds(
    seed: int | tf.Tensor, stream: int | tf.Tensor, first_row: int | tf.Tensor, num_rows: int | tf.Tensor
) -> tf.Tensor:
    """Makes a key for each row of a batch.

    Args:
        seed: of 32 bits, the user's; a tensor is int32.
        stream: a `Stream`, or the number of a training step; rows of two streams share no noise. A tensor may have
            the shape `[K]`, for K streams.
        first_row: index of the first row in the global batch or data set.
        num_rows: the number of rows.

    Returns:
        int32 `[num_rows, 2]`, keys for `normal` or `uniform`; `[K num_rows, 2]`, stream by stream, for K streams. Use a
        key once: two draws from one key are not independent.

    Raises:
        ValueError: if the seed is larger, or no whole number.
    """
    if not tf.is_tensor(seed):
        check_seed(seed)
        seed = tf.constant(seed, tf.int32)
    if isinstance(stream, int):
        stream = int(stream)  # TensorFlow takes no `Stream`
    # All in uint32: a GPU leaves sums of int32 to the CPU, and each step of training would wait for it.
    streams = tf.cast(stream, tf.uint32)
    places = tf.stack([tf.cast(seed, tf.uint32) + tf.zeros_like(streams), streams], axis=-1)
    # Random, so that the rows of one stream do not run into those of the next.
    keys = _bits(tf.bitcast(tf.reshape(places, [-1, 2]), tf.int32), 2)
    rows = tf.cast(tf.cast(first_row, tf.int32) + tf.range(num_rows), tf.uint32)
    first, second = keys[:, :1], keys[:, 1:] + rows
    pairs = tf.stack([first + tf.zeros_like(second), second], axis=2)
    return tf.bitcast(tf.reshape(pairs, [-1, 2]), tf.int32)


def keys_of(seeds: tf.Tensor, stream: int) -> tf.Tensor:
    """Makes a key for each row from a seed of its own: the key of row 0 in `row_seeds(seed, stream, 0, 1)`.

    Args:
        seeds: int64 `[N]`, any number; `row_seeds` itself takes those of 32 bits.
        stream: `Stream` or int, see `row_seeds`.

    Returns:
        int32 `[N, 2]`, see `row_seeds`.
    """
    low, high = tf.unstack(tf.bitcast(seeds, tf.int32), axis=1)
    places = tf.stack([low, tf.bitwise.bitwise_xor(high, int(stream))], axis=1)
    return tf.bitcast(_bits(places, 2), tf.int32)


def normal(seeds: tf.Tensor, size: int) -> tf.Tensor:
    """Draws standard normal numbers, each row from its own key.

    A larger `size` changes all numbers of a row: the first half of its uniform numbers gives the radii, the second half
    the angles.

    Args:
        seeds: int32 `[N, 2]`, see `row_seeds`.
        size: numbers a row; an odd one gives the numbers of the next even one but for the last.

    Returns:
        float32 `[N, size]`.
    """
    radius, angle = tf.split(uniform(seeds, size + size % 2), 2, axis=1)  # the Box-Muller transform
    radius, angle = tf.sqrt(-2.0 * tf.math.log(1.0 - radius)), 2.0 * math.pi * angle
    return tf.concat([radius * tf.cos(angle), radius * tf.sin(angle)], axis=1)[:, :size]


def uniform(seeds: tf.Tensor, size: int) -> tf.Tensor:
    """Draws numbers from U[0, 1), each row from its own key.

    A larger `size` adds numbers to a row and keeps those before.

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
    """Returns the output of Philox 4x32-10 for the counters 0, 1, ... under each row's key, uint32 `[N, size]`.

    These are the bits of TensorFlow's `StatelessRandomUniformFullIntV2`, which takes one key only.
    The words of a counter and of a key are uint64 tensors, so that a product keeps all its bits.
    """
    keys = tf.cast(tf.bitcast(seeds, tf.uint32), tf.uint64)[..., tf.newaxis]
    keys = [keys[:, 0], keys[:, 1]]
    counter = tf.cast(tf.range((size + 3) // 4), tf.uint64) + tf.zeros_like(keys[0])
    words = [counter] + 3 * [tf.zeros_like(counter)]
    for round_index in range(PHILOX_ROUNDS):
        first, second = words[0] * PHILOX_MULTIPLIERS[0], words[2] * PHILOX_MULTIPLIERS[1]
        round_keys = [
            (key + tf.constant(round_index * weyl % 2**32, tf.uint64)) & LOW_WORD
            for key, weyl in zip(keys, PHILOX_WEYL, strict=True)
        ]
        words = [
            tf.bitwise.right_shift(second, 32) ^ words[1] ^ round_keys[0],
            second & LOW_WORD,
            tf.bitwise.right_shift(first, 32) ^ words[3] ^ round_keys[1],
            first & LOW_WORD,
        ]
    bits = tf.stack([tf.cast(word, tf.uint32) for word in words], axis=2)
    return tf.reshape(bits, [tf.shape(seeds)[0], -1])[:, :size]


def normals(seeds: tf.Tensor, shapes: Sequence[tuple[int, ...]]) -> list[tf.Tensor | None]:
    """Draws several arrays of standard normal numbers a row, all from the row's one key.

    They are parts of one call of `normal`, so that another shape of one array changes all of them.

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
        purpose: an `InferenceNoise` or a `GenerationNoise`; `TARGET` gives the same keys.

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


def to_index(uniform: tf.Tensor, count: int) -> tf.Tensor:
    """Turns uniform numbers into equally likely indices.

    Args:
        uniform: float32 tensor in [0, 1].
        count: how many indices there are.

    Returns:
        int32 tensor of the same shape, from 0 to count - 1.
    """
    return tf.minimum(tf.cast(uniform * count, tf.int32), count - 1)
