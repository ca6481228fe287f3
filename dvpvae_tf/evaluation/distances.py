"""Distances between two sets of images: Fréchet and kernel distances between their features."""

from typing import NamedTuple

import numpy as np
import scipy.linalg

from dvpvae_tf.errors import UserError


class FeatureDistances(NamedTuple):
    """The distances between two sets of images.

    Attributes:
        frechet: squared Fréchet distance.
        kernel: squared kernel distance.
        kernel_standard_error: standard error of `kernel`.
        num_real: number of real images.
        num_generated: number of generated images.
        num_features: number of features of each image.
    """

    frechet: float
    kernel: float
    kernel_standard_error: float
    num_real: int
    num_generated: int
    num_features: int


class KernelDistance(NamedTuple):
    """A squared kernel distance.

    Attributes:
        mean: unbiased estimate, which may be negative.
        standard_error: its standard error.
    """

    mean: float
    standard_error: float


def feature_distances(real: np.ndarray, generated: np.ndarray, seed: int = 0) -> FeatureDistances:
    """Computes the distances between the features of real and of generated images.

    The fewer the images, the more the Fréchet distance is overestimated. Compare only values from the same numbers of
    images.

    Args:
        real: `[N, F]`, from `inception_features` or `classifier_features`.
        generated: `[M, F]`, from the same function.
        seed: seed of the random subsets of `kernel_distance`.

    Returns:
        The distances.

    Raises:
        UserError: if a set has fewer than four images, or features that are not finite.
    """
    kernel = kernel_distance(real, generated, seed=seed)
    return FeatureDistances(frechet_distance(real, generated), *kernel, len(real), len(generated), real.shape[1])


def frechet_distance(features: np.ndarray, other_features: np.ndarray) -> float:
    """Computes the squared Fréchet distance between two Gaussians, fitted to two sets of features.

    |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)), in float64. The covariances may be singular.

    Args:
        features: `[N, F]`.
        other_features: `[M, F]`.

    Returns:
        The squared distance, at least 0.

    Raises:
        UserError: if a set has fewer than two images, or features that are not finite.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", NeurIPS
        2017, Eq. 6. With features of InceptionV3 it is the FID.
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


def kernel_distance(
    features: np.ndarray, other_features: np.ndarray, subset_size: int = 1000, num_subsets: int = 100, seed: int = 0
) -> KernelDistance:
    """Estimates the squared maximum mean discrepancy between two sets of features, with the kernel (x.y / F + 1)^3.

    The estimate is a mean over random subsets, which are drawn without replacement. On each subset the estimator is
    unbiased, so the expected value does not depend on the numbers of images.

    The standard error says how much the mean would vary with other images. It is the standard deviation over the
    subsets times (m / (N - m) + 1 / num_subsets)^(1/2): the delete-d jackknife with subsets of m out of N images, N
    being the size of the smaller set. It is too large rather than too small if the sets hardly differ or one is larger.
    Other libraries report the plain standard deviation over the subsets, which describes one subset and not the mean.

    Args:
        features: `[N, F]`.
        other_features: `[M, F]`.
        subset_size: m, the number of images of each set in a subset; at most half of the smaller set.
        num_subsets: number of subsets, at least 2.
        seed: seed of the subsets.

    Returns:
        The estimate and its standard error.

    Raises:
        UserError: if a set has fewer than four images, or features that are not finite.

    Source: Binkowski et al., "Demystifying MMD GANs", ICLR 2018; with features of InceptionV3 it is the KID. Shao and
        Wu, "A General Theory for Jackknife Variance Estimation", Annals of Statistics, 1989.
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


def _squared_discrepancy(features: np.ndarray, other_features: np.ndarray) -> float:
    """The unbiased estimate from two sets of the same size."""
    size = len(features)

    def kernel(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        root = one @ other.T / one.shape[1] + 1
        return root * root * root  # several times faster than a power

    within = kernel(features, features) + kernel(other_features, other_features)
    between = kernel(features, other_features).mean()
    return (within.sum() - np.trace(within)) / (size * (size - 1)) - 2 * between


def _checked(*features_of_sets: np.ndarray, fewest: int) -> list[np.ndarray]:
    sets = [np.asarray(features, "float64") for features in features_of_sets]
    if any(features.ndim != 2 or features.shape[1] != sets[0].shape[1] for features in sets):
        raise ValueError(f"Features must be [N, F] and [M, F], got {[features.shape for features in sets]}.")
    if min(map(len, sets)) < fewest:
        raise UserError(f"this distance needs {fewest} images of each kind or more: there are {min(map(len, sets))}")
    if not all(np.isfinite(features).all() for features in sets):
        raise UserError("the features of some images are not finite: has the model diverged?")
    return sets
