"""Distances between generated and real images: Fréchet and kernel distances between their features."""

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import scipy.linalg
import tensorflow as tf

from dvpvae_tf.data.pipelines import evaluation_batches, training_batches
from dvpvae_tf.data.tfds_images import one_line, reachable
from dvpvae_tf.errors import UserError
from dvpvae_tf.layers.pixels import check_images, to_unit_range

INCEPTION_FILE = "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5"
INCEPTION_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/inception_v3/{INCEPTION_FILE}"
INCEPTION_LABEL = "Keras's ImageNet InceptionV3: not comparable with FIDs from the original Inception weights"
CLASSIFIER_LABEL = "a classifier trained on the labels of this data set: comparable for the same classifier only"


class FeatureDistances(NamedTuple):
    """The Fréchet distance and the kernel distance (with its standard error) between two sets of images."""

    frechet: float
    kernel: float
    kernel_standard_error: float
    num_real: int
    num_generated: int
    num_features: int


class KernelDistance(NamedTuple):
    """An unbiased estimate of a squared kernel distance, which may be negative, and its standard error."""

    mean: float
    standard_error: float


def feature_distances(real, generated, seed=0):
    """Measures how far the features of generated images are from those of real ones.

    The Fréchet distance of few images is too large, and the more so the fewer they are: compare values of the
    same numbers of images only.

    Args:
        real: array [N, F], from `inception_features` or `classifier_features`.
        generated: array [M, F], from the same.
        seed: int, see `kernel_distance`.

    Returns:
        `FeatureDistances`.

    Raises:
        UserError: if a set has fewer than four images, or features that are not finite.
    """
    kernel = kernel_distance(real, generated, seed=seed)
    return FeatureDistances(frechet_distance(real, generated), *kernel, len(real), len(generated), real.shape[1])


def frechet_distance(features, other_features):
    """Computes the squared Fréchet distance between the Gaussians with the moments of two sets of features.

    |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)), in float64, for singular covariances too.

    Args:
        features: array [N, F].
        other_features: array [M, F].

    Returns:
        float, at least 0.

    Raises:
        UserError: if a set has fewer than two images, or features that are not finite.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
    Equilibrium", NeurIPS 2017, Eq. 6, for features of InceptionV3 the FID.
    """
    features, other_features = _checked(features, other_features, fewest=2)
    covariance, other_covariance = (np.atleast_2d(np.cov(each, rowvar=False)) for each in (features, other_features))
    # (C_1 C_2)^(1/2) has the trace of (R C_2 R')^(1/2) with C_1 = R'R, whose eigenvalues are real and at least 0.
    variances, directions = scipy.linalg.eigh(covariance, driver="evd")
    root = np.sqrt(np.maximum(variances, 0))[:, None] * directions.T
    products = scipy.linalg.eigvalsh(root @ other_covariance @ root.T)
    overlap = np.sqrt(np.maximum(products, 0)).sum()
    shift = features.mean(axis=0) - other_features.mean(axis=0)
    return max(0.0, float(shift @ shift + np.trace(covariance) + np.trace(other_covariance) - 2 * overlap))


def kernel_distance(features, other_features, subset_size=1000, num_subsets=100, seed=0):
    """Estimates the squared maximum mean discrepancy of two sets of features by the kernel (x.y / F + 1)^3.

    The estimate is the mean over random subsets, drawn without replacement, of the unbiased one on a subset;
    its expectation does not depend on the numbers of images. Usually the standard deviation over the subsets is
    reported, which is that of a value from `subset_size` images. The standard error here is that of the mean if
    all images were drawn anew: by the jackknife that leaves all but m of N images out (N those of the smaller
    set), the standard deviation times (m / (N - m) + 1 / num_subsets)^(1/2). It is on the safe side where the
    sets hardly differ or one is larger.

    Args:
        features: array [N, F].
        other_features: array [M, F].
        subset_size: int, the images m of each set in a subset; at most half of the smaller set are taken.
        num_subsets: int, at least 2.
        seed: int that fixes the subsets.

    Returns:
        `KernelDistance`.

    Raises:
        UserError: if a set has fewer than four images, or features that are not finite.

    Source: Binkowski et al., "Demystifying MMD GANs", ICLR 2018, for features of InceptionV3 the
    KID; Shao and Wu, "A General Theory for Jackknife Variance Estimation", Annals of Statistics, 1989.
    """
    sets = _checked(features, other_features, fewest=4)
    smaller = min(map(len, sets))
    size = min(subset_size, smaller // 2)
    random = np.random.default_rng(seed)
    values = [
        _squared_discrepancy(*(each[random.choice(len(each), size, replace=False)] for each in sets))
        for _ in range(num_subsets)
    ]
    factor = size / (smaller - size) + 1 / num_subsets
    return KernelDistance(float(np.mean(values)), float(np.std(values, ddof=1) * np.sqrt(factor)))


def _squared_discrepancy(features, other_features):
    """The unbiased estimate from two sets of one size."""
    size = len(features)

    def kernel(one, other):
        root = one @ other.T / one.shape[1] + 1
        return root * root * root  # several times faster than a power

    within = kernel(features, features) + kernel(other_features, other_features)
    between = kernel(features, other_features).mean()
    return (within.sum() - np.trace(within)) / (size * (size - 1)) - 2 * between


def _checked(*sets, fewest):
    sets = [np.asarray(features, "float64") for features in sets]
    if any(features.ndim != 2 or features.shape[1] != sets[0].shape[1] for features in sets):
        raise ValueError(f"Features must be [N, F] and [M, F], got {[features.shape for features in sets]}.")
    if min(map(len, sets)) < fewest:
        raise UserError(f"this distance needs {fewest} images of each kind or more: there are {min(map(len, sets))}")
    if not all(np.isfinite(features).all() for features in sets):
        raise UserError("the features of some images are not finite: has the model diverged?")
    return sets


def load_inception(weights=None):
    """Makes the network of `inception_features`: `keras.applications.InceptionV3` without its top, averaged.

    Args:
        weights: path of a Keras weights file of that network, such as the one that Keras publishes,
            `inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5`. None takes that file from Keras's cache,
            `~/.keras/models`, or downloads it into that.

    Returns:
        `keras.Model`.

    Raises:
        UserError: if the file is missing, damaged or another one, or there is none and no network.
    """
    path = _cached_inception() if weights is None else Path(weights).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {path}: give --inception-weights the file {INCEPTION_URL}")
    inception = keras.applications.InceptionV3(include_top=False, weights=None, pooling="avg")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Skipping")  # each thing that the file lacks is a warning
            inception.load_weights(path)
    except Exception as error:  # Keras and h5py raise many types for a damaged or foreign file
        raise UserError(f"{path} is damaged or not a Keras weights file like {INCEPTION_URL}: fetch that") from error
    return inception


def _cached_inception():
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


def inception_features(inception, images, batch_size=50, verbose=1):
    """Computes InceptionV3's features of images, resized to 299 x 299 (bilinear), grey ones in three channels.

    Args:
        inception: `keras.Model` from `load_inception`.
        images: array [N, H, W, 1 or 3]: uint8, or floats in [0, 1].
        batch_size: int.
        verbose: int, 1 for a progress bar, 0 for silence.

    Returns:
        float32 array [N, 2048].

    Raises:
        ValueError: if the images are of another shape, type or range.
    """

    def prepare(batch):
        coloured = tf.image.grayscale_to_rgb(batch) if batch.shape[-1] == 1 else batch
        resized = tf.image.resize(coloured, (299, 299), antialias=True)  # which matters for larger images only
        return keras.applications.inception_v3.preprocess_input(255.0 * resized)

    batches = _batches(images, batch_size).map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
    return inception.predict(batches, verbose=verbose)


def train_classifier(images, labels, seed=0, steps=1500, verbose=1):
    """Trains a small convolutional classifier, whose features tell more of small grey images than InceptionV3's.

    Args:
        images: array [N, H, W, C]: uint8, or floats in [0, 1].
        labels: int array [N], each at least 0.
        seed: int that fixes the initial weights, the batches and the dropout.
        steps: int, the number of steps, each on 128 images or, if there are fewer, all.
        verbose: int, 1 for a progress bar, 0 for silence.

    Returns:
        `keras.Model` from float32 images in [0, 1] to the probabilities of the labels; its layer `features` is
        the penultimate one.

    Raises:
        ValueError: if the images are of another shape, type or range, or do not fit the labels.
    """
    check_images(images)
    if np.shape(labels) != (len(images),) or np.min(labels) < 0:
        raise ValueError(f"Labels must be [{len(images)}] and at least 0, got {list(np.shape(labels))}.")
    classifier = _new_classifier(images.shape[1:], int(np.max(labels)) + 1, seed)
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    classifier.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy", metrics=["accuracy"])
    classifier.fit(_pairs(images, labels, seed), steps_per_epoch=steps, shuffle=False, verbose=verbose)
    return classifier


def _pairs(images, labels, seed):
    """Endless shuffled batches of images and their labels."""
    batches = training_batches(images, min(128, len(images)), seed, first_epoch=0, labels=labels)
    return batches.map(lambda batch, answers: (to_unit_range(batch), answers))


def _new_classifier(image_shape, num_classes, seed):
    """Its features are standardised, so that distances between them have a scale."""
    seeds = iter(np.random.SeedSequence(seed).generate_state(7).tolist())

    def weights():
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


def load_classifier(path, image_shape):
    """Loads a classifier that was saved, with its `save` method, as a `.keras` file.

    Args:
        path: path of the file.
        image_shape: (H, W, C) of the images it is for.

    Returns:
        `keras.Model`, as of `train_classifier`.

    Raises:
        UserError: if the file is missing, damaged or no such classifier for such images.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {path}: give a classifier saved as .keras, or none to train one")
    try:
        classifier = keras.saving.load_model(path)
        classifier.get_layer("features")
    except Exception as error:  # Keras raises many types for a damaged or foreign file
        raise UserError(f"{path} is damaged or no classifier of this library: train it anew") from error
    if classifier.input_shape[1:] != tuple(image_shape):
        shapes = f"{list(classifier.input_shape[1:])}, not {list(image_shape)}"
        raise UserError(f"the classifier {path} is for images {shapes}: train one on this data set")
    return classifier


def classifier_features(classifier, images, batch_size=500, verbose=1):
    """Computes a classifier's features of images.

    Grey levels are compared as they are: a Bernoulli model's samples, which are probabilities, with the grey
    real images and not with binarised ones.

    Args:
        classifier: `keras.Model` from `train_classifier`.
        images: array [N, H, W, C]: uint8, or floats in [0, 1].
        batch_size: int.
        verbose: int, 1 for a progress bar, 0 for silence.

    Returns:
        float32 array [N, 64].

    Raises:
        ValueError: if the images are of another shape, type or range.
    """
    extract = keras.Model(classifier.inputs, classifier.get_layer("features").output)
    return extract.predict(_batches(images, batch_size), verbose=verbose)


def classifier_accuracy(classifier, images, labels, batch_size=500, verbose=0):
    """Computes the share of images that a classifier labels rightly.

    Args:
        classifier: `keras.Model` from `train_classifier`.
        images: array [N, H, W, C]: uint8, or floats in [0, 1].
        labels: int array [N].
        batch_size: int.
        verbose: int, 1 for a progress bar, 0 for silence.

    Returns:
        float in [0, 1].

    Raises:
        ValueError: if the images are of another shape, type or range.
    """
    probabilities = classifier.predict(_batches(images, batch_size), verbose=verbose)
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def _batches(images, batch_size):
    check_images(images)
    return evaluation_batches(images, batch_size).map(to_unit_range)
