"""What a training or evaluation step needs to give the same result on any number of replicas.

A replica is one device's part of a step; it sees its own rows of the global batch. All functions are for a replica's
graph. On a single device they do next to nothing.
"""

from typing import Any

import tensorflow as tf


def place_in_global_batch(rows: tf.Tensor) -> tuple[int | tf.Tensor, tf.Tensor]:
    """Finds where this replica's rows are in the global batch.

    Args:
        rows: int32 scalar, the number of this replica's rows.

    Returns:
        The index of its first row in the global batch, and the number of rows of that batch, int32 scalars.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return 0, rows
    replica = context.replica_id_in_sync_group
    mine = tf.one_hot(replica, context.num_replicas_in_sync, on_value=rows, off_value=0, dtype=tf.int32)
    counts = context.all_reduce(tf.distribute.ReduceOp.SUM, mine)
    return tf.reduce_sum(counts[:replica]), tf.reduce_sum(counts)


def pad_images(images: tf.Tensor, parts: int = 1) -> tuple[tf.Tensor, tf.Tensor]:
    """Adds black images of weight 0, until there is at least one image and `parts` divides their number.

    In the last batch a replica may have no images, or a number that cannot be divided evenly.

    Args:
        images: `[N, H, W, C]` of this replica; N may be 0.
        parts: the number of equal parts.

    Returns:
        The images with those added, and their weights, float32 `[N + added]`: 1, or 0 for an added one.
    """
    rows = images.shape[0]
    if rows and rows % parts == 0:
        return images, tf.ones(rows)
    rows = tf.shape(images)[0]
    added = tf.where(rows == 0, parts, tf.math.floormod(-rows, parts))
    weights = tf.pad(tf.ones(rows), [[0, added]])
    return tf.pad(images, [[0, added], [0, 0], [0, 0], [0, 0]]), weights


def sum_over_replicas(values: Any) -> Any:
    """Adds up the values of all replicas.

    Args:
        values: a tensor or a list of tensors, of the same shapes on all replicas.

    Returns:
        The sums, as `values`, on every replica.
    """
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)
