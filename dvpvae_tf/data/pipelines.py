"""From the name of a data set to its images, its labels and its `tf.data` pipelines."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from dvpvae_tf.config.datasets import check_options, find_reader
from dvpvae_tf.config.settings import SOURCE_SETTINGS
from dvpvae_tf.data.registry import SOURCES, Request
from dvpvae_tf.errors import UserError

Splits = tuple[np.ndarray, np.ndarray, np.ndarray]
Rows = TypeVar("Rows", bound=Sequence | np.ndarray)


class LoadedDataset(NamedTuple):
    """A data set in memory; each triple is of the training, validation and test split.

    Attributes:
        images: uint8 arrays `[N, H, W, C]`.
        labels: int64 arrays `[N]`; None where they were not asked for.
        classes: the names of the labels 0, 1, ...; none where they are mere numbers.
        files: lists of N paths in the folder of the pictures; None for other data.
    """

    images: Splits
    labels: Splits | None = None
    classes: tuple[str, ...] = ()
    files: tuple[list[str], list[str], list[str]] | None = None


def load_dataset(
    name: str,
    batch_size: int,
    *,
    labels: bool = False,
    seed: int = 0,
    horizontal_flip: bool = False,
    first_epoch: int | None = None,
    **source: Any,
) -> tuple[tf.data.Dataset, tf.data.Dataset, tf.data.Dataset]:
    """Loads a data set as batches of uint8 images, held in memory.

    Validation is the last 5,000 training images (1,000 of OMNIGLOT), or the last 10% if that is fewer. A TFDS data set
    keeps a validation split of its own; one without a test split first gives the last 10% of its training images for
    it. `mnist5k` has 4,000 training, 500 validation and 500 test digits. A folder is split by its subfolders or by the
    hashes of its files, see `dvpvae_tf.data.folder.read_folder`. `seed` does not change the splits: it fixes the order
    and the flips.

    Args:
        name: `mnist`, `omniglot`, `cifar10`, `mnist5k` (which needs no download), `tfds:<name>` for an image data set
            of TFDS, or `folder:<path>` for a folder of pictures.
        batch_size: images in a batch.
        labels: pairs of images and labels instead of images: digits, the classes of `cifar10`, OMNIGLOT's alphabets (of
            a `chardata.mat` at hand), the feature `label` of other TFDS data sets, the class subfolders of a folder.
        seed: fixes the order of the training images and their flips.
        horizontal_flip: mirrors each training image with probability 1/2.
        first_epoch: None for training data that end after one pass and have a new order in each pass, fixed by `seed`
            and TensorFlow's global seed. An integer e for an endless stream of epochs from epoch e on, in which the
            order and the flips of an epoch depend on (seed, epoch) alone: a resumed run sees what an uninterrupted one
            would have seen.
        **source: where and how the images are read, see `read_dataset`.

    Returns:
        Training, validation and test `tf.data.Dataset` of uint8 batches `[B, H, W, C]`, or of pairs of them and int64
        labels `[B]`. Training drops what does not fill a batch; validation and test are in order, with a smaller last
        batch.

    Raises:
        UserError: for an unknown name, data that are missing or cannot be read, labels that a data set does not have, a
            missing or unfitting `image_size`, an option that the data set does not take, or fewer training images than
            a batch.

    Source: Section 5 and Table 7 of the paper for the data sets.
    """
    changed = {option: value for option, value in source.items() if value != getattr(Request, option, None)}
    check_options(name, {option: value for option, value in changed.items() if option in SOURCE_SETTINGS})
    data = read_dataset(name, labels=labels, **source)
    images, parts = data.images, data.labels or (None, None, None)
    if not 1 <= batch_size <= len(images[0]):
        raise UserError(f"batch_size is {batch_size}: for {name} it must be from 1 to {len(images[0])}")
    train = training_batches(images[0], batch_size, seed, horizontal_flip, first_epoch, parts[0])
    validation, test = (evaluation_batches(images[split], batch_size, parts[split]) for split in (1, 2))
    return train, validation, test


def read_dataset(
    name: str,
    data_dir: str | None = None,
    image_size: int | None = None,
    omniglot_mat: str | None = None,
    background: str = "white",
    skip_broken: bool = False,
    whole: bool = False,
    image_channels: int | None = None,
    labels: bool = False,
) -> LoadedDataset:
    """Reads a data set into memory.

    Args:
        name: see `load_dataset`.
        data_dir: TFDS's data_dir; None for TFDS's default.
        image_size: side in pixels to crop and resize the images to. `folder:` needs it; `tfds:` needs it where the
            images are not squares of one size.
        omniglot_mat: path of a `chardata.mat` at hand, for `omniglot`.
        background: colour, as in CSS, under transparent pictures of `folder:`.
        skip_broken: leaves out pictures of `folder:` that cannot be read, instead of refusing the folder.
        whole: a `folder:` without split subfolders is not split, and each of the three splits is all of it: for
            evaluation on images that no run was trained on.
        image_channels: 1 turns the pictures of `folder:` to grey, 3 to colour; None leaves them as they are.
        labels: reads the labels, too.

    Returns:
        `LoadedDataset`.

    Raises:
        UserError: see `load_dataset`.
    """
    reader, place = find_reader(name, image_size)
    source = SOURCES[reader]
    request = Request(place, data_dir, image_size, omniglot_mat, background, skip_broken, whole, image_channels, labels)
    contents = source.read(request)

    def three(splits: dict[str, Rows] | None) -> Any:
        return None if splits is None else _three_splits(splits, source.most_validation)

    return LoadedDataset(three(contents.images), three(contents.labels), contents.classes, three(contents.files))


def read_images(name: str, data_dir: str | None = None, **source: Any) -> Splits:
    """Reads the images of a data set into memory.

    Args:
        name: see `load_dataset`.
        data_dir: see `read_dataset`.
        **source: the other arguments of `read_dataset`.

    Returns:
        uint8 arrays `[N, H, W, C]` of the training, validation and test images.

    Raises:
        UserError: see `load_dataset`.
    """
    return read_dataset(name, data_dir, **source).images


def _three_splits(splits: dict[str, Rows], most: int) -> tuple[Rows, Rows, Rows]:
    """Takes a missing test split, then a missing validation split of at most `most` rows, from the end of `train`."""
    train, validation, test = splits["train"], splits.get("validation"), splits.get("test")
    if test is None:
        train, test = _hold_out(train, len(train))
    if validation is None:
        train, validation = _hold_out(train, most)
    return train, validation, test


def _hold_out(rows: Rows, most: int) -> tuple[Rows, Rows]:
    count = min(most, len(rows) // 10)
    if count == 0:
        raise UserError(f"there are {len(rows)} training images: at least 10 are needed")
    return rows[:-count], rows[-count:]  # type: ignore[return-value]  # slices of an array or list are of its type


def training_batches(
    images: np.ndarray,
    batch_size: int,
    seed: int = 0,
    horizontal_flip: bool = False,
    first_epoch: int | None = None,
    labels: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Makes the shuffled batches of training images that `load_dataset` describes.

    Args:
        images: array `[N, H, W, C]`.
        batch_size: see `load_dataset`.
        seed: see `load_dataset`.
        horizontal_flip: see `load_dataset`.
        first_epoch: see `load_dataset`.
        labels: array `[N]` of the images, or None.

    Returns:
        `tf.data.Dataset` of batches `[batch_size, H, W, C]` of the same dtype; with `labels`, of pairs of a batch and
        its labels `[batch_size]`.
    """
    with tf.device("CPU"):
        images = tf.constant(images)
        labels = None if labels is None else tf.constant(labels)
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
        return batch if labels is None else (batch, tf.gather(labels, indices))

    if first_epoch is None:  # one epoch with a random number, drawn whenever the data are iterated
        epochs = tf.data.Dataset.random(seed, rerandomize_each_iteration=True).take(1)
        length = steps
    else:
        epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
        length = tf.data.INFINITE_CARDINALITY
    batches = epochs.flat_map(order_and_flips).map(batch_of_images)
    return _prefetch(batches.apply(tf.data.experimental.assert_cardinality(length)))


def evaluation_batches(images: np.ndarray, batch_size: int, labels: np.ndarray | None = None) -> tf.data.Dataset:
    """Makes batches of images in their order, the last one smaller where they do not fill it.

    Args:
        images: array `[N, H, W, C]`.
        batch_size: images in a batch.
        labels: array `[N]` of the images, or None.

    Returns:
        `tf.data.Dataset` of batches `[B, H, W, C]` of the same dtype; with `labels`, of pairs of a batch and its
        labels `[B]`.
    """
    rows = images if labels is None else (images, labels)
    return _prefetch(tf.data.Dataset.from_tensor_slices(rows).batch(batch_size))


def _prefetch(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Prefetches two batches, without TensorFlow's tuner: that can hold up a validation for ten seconds."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.prefetch(2).with_options(options)


def share_of_worker(batches: tf.data.Dataset, batch_size: int, context: tf.distribute.InputContext) -> tf.data.Dataset:
    """Selects the rows of every global batch that one worker takes: device i of N takes the i-th of N equal parts.

    Devices are numbered through all workers: first the first worker's, then the second's, and so on. Where the last
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
    return _prefetch(parts)
