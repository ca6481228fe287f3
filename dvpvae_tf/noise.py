"""Random numbers as a function of (seed, stream, row): one key a row, so no result depends on the batch it is in.

The generator is Philox by name: left to choose, XLA would take another and give other numbers.
"""

import tensorflow as tf


def row_seeds(seed, stream, first_row, num_rows):
    """Gives each row of a batch a key of its own.

    Args:
        seed: int, the user's seed.
        stream: int or int scalar tensor; keeps apart what must not share noise (a training step, an evaluation).
        first_row: int or int scalar tensor, index of the first row in the global batch or data set.
        num_rows: int or int32 scalar tensor, the number of rows.

    Returns:
        int32 tensor `[num_rows, 2]`, keys for `normal` and `uniform`.
    """
    # Two random numbers for each stream: the rows of one stream must not run into those of the next.
    place = tf.stack([tf.constant(seed, tf.int32), tf.cast(stream, tf.int32)])
    key = tf.random.stateless_uniform([2], place, minval=None, maxval=None, dtype=tf.int32, alg="philox")
    rows = tf.cast(first_row, tf.int32) + tf.range(num_rows)
    return tf.stack([tf.fill([num_rows], key[0]), key[1] + rows], axis=1)


def normal(seeds, size):
    """Draws standard normal numbers, each row from its own key.

    Args:
        seeds: int32 tensor `[N, 2]`, see `row_seeds`.
        size: int, how many numbers a row.

    Returns:
        float32 tensor `[N, size]`.
    """
    return _draw(tf.random.stateless_normal, seeds, size)


def uniform(seeds, size):
    """Draws numbers from U[0, 1), each row from its own key.

    Args:
        seeds: int32 tensor `[N, 2]`, see `row_seeds`.
        size: int, how many numbers a row.

    Returns:
        float32 tensor `[N, size]`.
    """
    return _draw(tf.random.stateless_uniform, seeds, size)


@tf.function(reduce_retracing=True)  # a loop over rows is slow eagerly
def _draw(generator, seeds, size):
    rows = tf.map_fn(
        lambda key: generator([size], key, alg="philox"), seeds, fn_output_signature=tf.TensorSpec([size], tf.float32)
    )
    return tf.ensure_shape(rows, [seeds.shape[0], size])


def to_uniform(values):
    """Turns standard normal numbers into U(0, 1) ones, through the normal distribution's own function.

    Args:
        values: float32 tensor, standard normal.

    Returns:
        float32 tensor of the same shape in [0, 1].
    """
    return 0.5 * tf.math.erfc(-values / 2.0**0.5)
