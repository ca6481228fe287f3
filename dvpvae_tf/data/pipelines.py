"""From the name of a data set to its three tf.data pipelines."""

import difflib

import tensorflow as tf

from dvpvae_tf.data.folder import read_folder
from dvpvae_tf.data.mnist5k import read_mnist5k
from dvpvae_tf.data.omniglot import read_omniglot
from dvpvae_tf.data.tfds_images import read_tfds
from dvpvae_tf.errors import UserError

SIDES = {"mnist": 28, "omniglot": 28, "cifar10": 32, "mnist5k": 28}


def load_dataset(
    name,
    batch_size,
    *,
    seed=0,
    data_dir=None,
    image_size=None,
    omniglot_mat=None,
    horizontal_flip=False,
    first_epoch=None,
):
    """Loads a data set as batches of uint8 images, held in memory.

    Validation is the last 5,000 training images (1,000 of OMNIGLOT), or the last 10% if that is fewer. A TFDS
    data set keeps a validation split of its own; one without a test split first gives the last 10% of its
    training images for it. `mnist5k` has 4,000 training, 500 validation and 500 test digits; a folder is
    split 80:10:10. The splits never change: `seed` is for the order and the flips.

    Args:
        name: `mnist`, `omniglot`, `cifar10`, `mnist5k` (which needs no download), `tfds:<name>` for an image
            data set of TFDS, or `folder:<path>` for a folder of PNG, JPEG, BMP or GIF files.
        batch_size: images in a batch.
        seed: integer that fixes the order of the training images and their flips.
        data_dir: TFDS's data_dir; None for TFDS's default.
        image_size: side in pixels to crop and resize the images to, for `tfds:` and `folder:`; needed where
            they are not squares of one size.
        omniglot_mat: path of a `chardata.mat` at hand, for `omniglot`.
        horizontal_flip: mirrors each training image with probability 1/2.
        first_epoch: None for training data that end after one pass and have a new order in each pass, fixed
            by `seed` and TensorFlow's global seed. An integer e for an endless stream of epochs from epoch e
            on, in which the order and the flips of an epoch depend on (seed, epoch) alone: a resumed run sees
            what an uninterrupted one would have seen.

    Returns:
        Training, validation and test `tf.data.Dataset` of uint8 batches [B, H, W, C]. Training drops what
        does not fill a batch; validation and test are in order, with a smaller last batch.

    Raises:
        UserError: for an unknown name, data that are missing or cannot be read, a missing or unfitting
            `image_size`, or fewer training images than a batch.

    Source: Section 5 and Table 7 of the paper for the data sets.
    """
    train, validation, test = read_images(name, data_dir, image_size, omniglot_mat)
    if not 1 <= batch_size <= len(train):
        raise UserError(f"batch_size is {batch_size}: for {name} it must be from 1 to {len(train)}")
    train = training_batches(train, batch_size, seed, horizontal_flip, first_epoch)
    return train, evaluation_batches(validation, batch_size), evaluation_batches(test, batch_size)


def read_images(name, data_dir=None, image_size=None, omniglot_mat=None):
    """Reads the images of a data set into memory.

    Args:
        name: see `load_dataset`.
        data_dir: see `load_dataset`.
        image_size: see `load_dataset`.
        omniglot_mat: see `load_dataset`.

    Returns:
        uint8 arrays [N, H, W, C] of the training, validation and test images.

    Raises:
        UserError: see `load_dataset`.
    """
    kind, _, place = name.partition(":")
    if kind == "folder" and place:
        return read_folder(place, image_size)
    if kind == "tfds" and place:
        return three_splits(read_tfds(place, data_dir, image_size), most=5000)
    if name not in SIDES:
        raise unknown_data_set(name)
    if image_size not in (None, SIDES[name]):
        raise UserError(f"image_size is {image_size}, but images of {name} have side {SIDES[name]}")
    if name == "mnist5k":
        return read_mnist5k()
    if name == "omniglot":
        return three_splits(read_omniglot(data_dir, omniglot_mat), most=1000)
    return three_splits(read_tfds(name, data_dir), most=5000)


def unknown_data_set(name):
    """The error for a name that is no data set's.

    Args:
        name: the name that the user gave.

    Returns:
        `UserError`, to be raised.
    """
    similar = difflib.get_close_matches(name, SIDES, n=1)
    hint = f"did you mean {similar[0]}? " if similar else ""
    choices = ", ".join((*SIDES, "tfds:<name>", "folder:<path>"))
    return UserError(f"unknown data set {name}: {hint}the choices are {choices}")


def three_splits(splits, most):
    """Takes a missing test split, then a missing validation split, from the end of the training split.

    Args:
        splits: dict from `train` and, where there are such, `validation` and `test` to arrays of N rows.
        most: how many rows of `train` validation takes at most; it takes no more than a tenth.

    Returns:
        Training, validation and test arrays.

    Raises:
        UserError: if there are fewer than ten training rows to take from.
    """
    train, validation, test = (splits.get(split) for split in ("train", "validation", "test"))
    if test is None:
        train, test = _hold_out(train, len(train))
    if validation is None:
        train, validation = _hold_out(train, most)
    return train, validation, test


def _hold_out(images, most):
    count = min(most, len(images) // 10)
    if count == 0:
        raise UserError(f"there are {len(images)} training images: at least 10 are needed")
    return images[:-count], images[-count:]


def training_batches(images, batch_size, seed=0, horizontal_flip=False, first_epoch=None):
    """Makes the shuffled batches of training images that `load_dataset` describes.

    Args:
        images: uint8 array [N, H, W, C].
        batch_size: see `load_dataset`.
        seed: see `load_dataset`.
        horizontal_flip: see `load_dataset`.
        first_epoch: see `load_dataset`.

    Returns:
        `tf.data.Dataset` of uint8 batches [batch_size, H, W, C].
    """
    with tf.device("CPU"):
        images = tf.constant(images)
    count, steps = len(images), len(images) // batch_size

    def order_and_flips(epoch):
        seeds = tf.random.split(tf.stack([tf.constant(seed, tf.int64), epoch]), 2, alg="philox")
        order = tf.random.experimental.stateless_shuffle(tf.range(count), seeds[0], alg="philox")
        flips = tf.random.stateless_uniform([count], seeds[1], alg="philox") < 0.5
        batches = [tf.reshape(each[: steps * batch_size], [steps, batch_size]) for each in (order, flips)]
        return tf.data.Dataset.from_tensor_slices(tuple(batches))

    def batch_of_images(indices, flips):
        batch = tf.gather(images, indices)
        if horizontal_flip:
            batch = tf.where(flips[:, None, None, None], tf.reverse(batch, axis=[2]), batch)
        return batch

    if first_epoch is None:  # one epoch, numbered at random, anew each time the data are iterated
        epochs = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).take(1)
        length = steps
    else:
        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
        length = tf.data.INFINITE_CARDINALITY
    batches = epochs.flat_map(order_and_flips).map(batch_of_images)
    return _made_ahead(batches.apply(tf.data.experimental.assert_cardinality(length)))


def evaluation_batches(images, batch_size):
    """Makes batches of images in their order, the last one smaller where they do not fill it.

    Args:
        images: uint8 array [N, H, W, C].
        batch_size: images in a batch.

    Returns:
        `tf.data.Dataset` of uint8 batches [B, H, W, C].
    """
    return _made_ahead(tf.data.Dataset.from_tensor_slices(images).batch(batch_size))


def _made_ahead(batches):
    """Keeps two batches ready, and TensorFlow from tuning that: its tuner can hold up a validation for ten seconds."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(2).with_options(options)


def share_of_worker(batches, batch_size, context):
    """Gives one worker its rows of every global batch: the i-th device of all has the i-th of as many equal parts.

    The devices are counted through: those of the first worker, then those of the second, and so on. Where the last
    batch is smaller, the last devices find fewer images or none.

    Args:
        batches: `tf.data.Dataset` of global batches, the same on all workers.
        batch_size: images in a global batch, a multiple of the number of devices.
        context: `tf.distribute.InputContext` of the worker.

    Returns:
        `tf.data.Dataset` of the parts of a batch for the worker's devices, one after the other, batch by batch.
    """
    devices = context.num_replicas_in_sync // context.num_input_pipelines
    rows = batch_size // context.num_replicas_in_sync
    first = context.input_pipeline_id * devices * rows
    parts = batches.map(lambda batch: batch[first : first + devices * rows]).rebatch(rows)
    if batches.cardinality() == tf.data.INFINITE_CARDINALITY:
        parts = parts.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY))
    return _made_ahead(parts)
