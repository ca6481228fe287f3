"""Features of images for Frechet and kernel distances, by InceptionV3 or by a small classifier trained here."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf.data.network import reachable
from dvpvae_tf.data.pipelines import evaluation_batches, training_batches
from dvpvae_tf.errors import UserError, one_line
from dvpvae_tf.layers.pixels import check_images, to_unit_range

INCEPTION_FILE = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
INCEPTION_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/{INCEPTION_FILE}"
INCEPTION_LABEL = "Keras's ImageNet InceptionV3: not comparable with FIDs from the original Inception weights"
CLASSIFIER_LABEL = "a classifier trained on the labels of this data set: comparable for the same classifier only"


def load_inception(weights: str | Path | None = None) -> keras.Model:
    """Loads `keras.applications.InceptionV3` without its top layer and with global average pooling.

    Args:
        weights: a Keras weights file of this network, such as the one that Keras publishes,
            `inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5`. None takes that file from Keras's cache,
            `~/.keras/models`, and downloads it if it is not there.

    Returns:
        The network that `inception_features` takes.

    Raises:
        UserError: if the file is missing, damaged or of another network, or if it cannot be downloaded.
    """
    path = _cached_inception() if weights is None else Path(weights).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {path}: give --inception-weights the file {INCEPTION_URL}")
    with _in_float32():
        inception = keras.applications.InceptionV3(include_top=False, weights=None, pooling="avg")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Skipping")  # Keras only warns of missing weights
            inception.load_weights(path)
    except Exception as error:  # Keras and h5py raise many types for a damaged or foreign file
        raise UserError(f"{path} is damaged or not a Keras weights file like {INCEPTION_URL}: fetch that") from error
    return inception


@contextlib.contextmanager
def _in_float32() -> Iterator[None]:
    """Makes networks that compute in float32, whatever Keras's global policy is: distances need all digits."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def _cached_inception() -> Path:
    cache = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    path = cache / "models" / INCEPTION_FILE
    if path.is_file():
        return path
    remedy = f"fetch {INCEPTION_URL} where there is a network and give it with --inception-weights FILE"
    if not reachable(INCEPTION_URL):
        raise UserError(f"InceptionV3 is not at {path} and there is no network to fetch it: {remedy}")
    try:
        return Path(keras.utils.get_file(INCEPTION_FILE, INCEPTION_URL, cache_dir=cache, cache_subdir="models"))
    except Exception as error:  # every way a download can fail
        raise UserError(f"cannot fetch InceptionV3 ({one_line(error)}): {remedy}") from error


def inception_features(
    inception: keras.Model, images: np.ndarray, batch_size: int = 50, verbose: int = 1
) -> np.ndarray:
    """Computes the features of InceptionV3. Images are resized to 299 x 299 (bilinear); grey ones get three channels.

    Args:
        inception: the network, from `load_inception`.
        images: `[N, H, W, 1 or 3]`: uint8, or float in [0, 1].
        batch_size: images in a batch.
        verbose: 1 for a progress bar, 0 for no output.

    Returns:
        float32 `[N, 2048]`.

    Raises:
        ValueError: if the shape, the dtype or the range of the images is wrong.
    """

    def prepare(batch: tf.Tensor) -> tf.Tensor:
        coloured = tf.image.grayscale_to_rgb(batch) if batch.shape[-1] == 1 else batch
        resized = tf.image.resize(coloured, (299, 299), antialias=True)  # only acts on images larger than 299
        return keras.applications.inception_v3.preprocess_input(255.0 * resized)

    batches = _batches(images, batch_size).map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    return inception.predict(batches, verbose=verbose)


def train_classifier(
    images: np.ndarray, labels: np.ndarray, seed: int = 0, steps: int = 1500, verbose: int = 1
) -> keras.Model:
    """Trains a small convolutional classifier. Its features suit small grey images better than InceptionV3's.

    Args:
        images: `[N, H, W, C]`: uint8, or float in [0, 1].
        labels: int `[N]`, each at least 0.
        seed: seed of the initial weights, the batches and the dropout.
        steps: number of training steps, each on 128 images, or on all images if there are fewer.
        verbose: 1 for a progress bar, 0 for no output.

    Returns:
        A model from float32 images in [0, 1] to the probabilities of the labels. Its layer `features` gives the
        features.

    Raises:
        ValueError: if the shape, the dtype or the range of the images is wrong, or they do not fit the labels.
    """
    check_images(images)
    if np.shape(labels) != (len(images),) or np.min(labels) < 0:
        raise ValueError(f"Labels must be [{len(images)}] and at least 0, got {list(np.shape(labels))}.")
    with _in_float32():
        classifier = _new_classifier(images.shape[1:], int(np.max(labels)) + 1, seed)
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    classifier.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy", metrics=["accuracy"])
    classifier.fit(_pairs(images, labels, seed), steps_per_epoch=steps, shuffle=False, verbose=verbose)
    return classifier


def _pairs(images: np.ndarray, labels: np.ndarray, seed: int) -> tf.data.Dataset:
    """Endless shuffled batches of images and their labels."""
    batches = training_batches(images, min(128, len(images)), seed, first_epoch=0, labels=labels)
    return batches.map(lambda batch, answers: (to_unit_range(batch), answers))


def _new_classifier(image_shape: tuple[int, ...], num_classes: int, seed: int) -> keras.Sequential:
    """Makes the classifier. It standardises its features, so that distances between them have a fixed scale."""
    seeds = iter(np.random.SeedSequence(seed).generate_state(7).tolist())

    def weights() -> keras.initializers.Initializer:
        return keras.initializers.HeUniform(seed=next(seeds))

    layers = [keras.Input(image_shape)]
    for filters in (16, 32, 64):
        layers += [
            keras.layers.Conv2D(filters, 3, padding="same", activation="relu", kernel_initializer=weights()),
            keras.layers.MaxPooling2D(),
        ]
    layers += [
        keras.layers.Flatten(),
        keras.layers.Dropout(0.4, seed=next(seeds)),
        keras.layers.Dense(64, use_bias=False, kernel_initializer=weights()),
        keras.layers.BatchNormalization(center=False, scale=False, name="features"),
        keras.layers.ReLU(),
        keras.layers.Dropout(0.4, seed=next(seeds)),
        keras.layers.Dense(num_classes, activation="softmax", kernel_initializer=weights()),
    ]
    return keras.Sequential(layers, name="classifier")


def load_classifier(path: str | Path, image_shape: tuple[int, ...]) -> keras.Model:
    """Loads a classifier from a `.keras` file.

    Args:
        path: the file, written by the `save` method of what `train_classifier` returned.
        image_shape: `(H, W, C)` that the classifier must take.

    Returns:
        The classifier.

    Raises:
        UserError: if the file is missing, damaged, no such classifier, or for images of another shape.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {path}: give a classifier saved as .keras, or none to train one")
    try:
        classifier = keras.saving.load_model(path)
        classifier.get_layer("features")
    except Exception as error:  # Keras raises many types for a damaged or foreign file
        raise UserError(f"{path} is damaged or no classifier of this library: train a new one") from error
    if classifier.input_shape[1:] != tuple(image_shape):
        shapes = f"{list(classifier.input_shape[1:])}, not {list(image_shape)}"
        raise UserError(f"the classifier {path} is for images {shapes}: train one on this data set")
    return classifier


def classifier_features(
    classifier: keras.Model, images: np.ndarray, batch_size: int = 500, verbose: int = 1
) -> np.ndarray:
    """Computes the features of a classifier.

    Grey levels are used as they are. The samples of a Bernoulli likelihood are probabilities, so compare them with the
    grey images and not with binarized ones.

    Args:
        classifier: the classifier, from `train_classifier`.
        images: `[N, H, W, C]`: uint8, or float in [0, 1].
        batch_size: images in a batch.
        verbose: 1 for a progress bar, 0 for no output.

    Returns:
        float32 `[N, 64]`.

    Raises:
        ValueError: if the shape, the dtype or the range of the images is wrong.
    """
    extract = keras.Model(classifier.inputs, classifier.get_layer("features").output)
    return extract.predict(_batches(images, batch_size), verbose=verbose)


def classifier_accuracy(
    classifier: keras.Model, images: np.ndarray, labels: np.ndarray, batch_size: int = 500, verbose: int = 0
) -> float:
    """Computes the accuracy of a classifier.

    Args:
        classifier: the classifier, from `train_classifier`.
        images: `[N, H, W, C]`: uint8, or float in [0, 1].
        labels: int `[N]`.
        batch_size: images in a batch.
        verbose: 1 for a progress bar, 0 for no output.

    Returns:
        The share of images with the right label, in [0, 1].

    Raises:
        ValueError: if the shape, the dtype or the range of the images is wrong.
    """
    probabilities = classifier.predict(_batches(images, batch_size), verbose=verbose)
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def _batches(images: np.ndarray, batch_size: int) -> tf.data.Dataset:
    check_images(images)
    return evaluation_batches(images, batch_size).map(to_unit_range)
