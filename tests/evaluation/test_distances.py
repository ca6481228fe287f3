"""Distances between features against SciPy, closed forms and double loops."""

import numpy as np
import pytest
import scipy.linalg
import scipy.special

from dvpvae_tf.errors import UserError
from dvpvae_tf.evaluation import feature_distances, frechet_distance, kernel_distance


def correlated(count, width, seed=0, shift=0.0):
    random = np.random.default_rng(seed)
    return random.normal(size=(count, width)) @ random.normal(size=(width, width)) + shift


def standardised(count, width, seed=0):
    """Features whose mean is 0 and whose covariance is the identity, to rounding."""
    features = np.random.default_rng(seed).normal(size=(count, width))
    features -= features.mean(axis=0)
    return features @ np.linalg.inv(np.linalg.cholesky(np.atleast_2d(np.cov(features, rowvar=False)))).T


class TestFrechetDistance:
    def test_is_the_formula_with_the_matrix_square_root_of_scipy(self):
        features, others = correlated(200, 12), correlated(90, 12, seed=1, shift=0.5)
        covariance, other = np.cov(features, rowvar=False), np.cov(others, rowvar=False)
        expected = np.sum((features.mean(axis=0) - others.mean(axis=0)) ** 2) + np.trace(
            covariance + other - 2 * scipy.linalg.sqrtm(covariance @ other).real
        )
        np.testing.assert_allclose(frechet_distance(features, others), expected, rtol=1e-9)

    def test_of_independent_features_is_that_of_their_means_and_deviations(self):
        mean, deviation = np.linspace(-1, 2, 6), np.linspace(0.5, 3, 6)
        distance = frechet_distance(standardised(50, 6), standardised(70, 6, seed=1) * deviation + mean)
        np.testing.assert_allclose(distance, np.sum(mean**2 + (deviation - 1) ** 2), rtol=1e-9)

    def test_of_one_feature(self):
        distance = frechet_distance(2 + standardised(9, 1), 5 * standardised(7, 1, seed=1))
        np.testing.assert_allclose(distance, 2**2 + (5 - 1) ** 2, rtol=1e-9)

    def test_of_a_shift_is_its_square_and_of_the_same_set_zero(self):
        features = correlated(200, 12)
        np.testing.assert_allclose(frechet_distance(features, features + 0.1), 12 * 0.1**2, rtol=1e-6)
        assert 0 <= frechet_distance(features, features[::-1]) < 1e-6

    def test_of_fewer_images_than_features_is_that_of_the_singular_values(self):
        # With deviations X and Y, the trace of (C_1 C_2)^(1/2) is the sum of the singular values of X Y'.
        features, others = correlated(8, 40), correlated(11, 40, seed=1)
        deviations, others_deviations = (
            (each - each.mean(axis=0)) / np.sqrt(len(each) - 1) for each in (features, others)
        )
        expected = np.sum((features.mean(axis=0) - others.mean(axis=0)) ** 2)
        expected += np.sum(deviations**2) + np.sum(others_deviations**2)
        expected -= 2 * np.linalg.svd(deviations @ others_deviations.T, compute_uv=False).sum()
        np.testing.assert_allclose(frechet_distance(features, others), expected, rtol=1e-6)
        assert 0 <= frechet_distance(features, features) < 1e-4

    def test_of_features_that_never_vary_together(self):
        one, other = np.zeros((3, 5)), np.zeros((4, 5))
        one[:, 0], other[:, 1] = [-1, 0, 1], [-2, 2, -2, 2]  # variances 1 and 16/3
        np.testing.assert_allclose(frechet_distance(one, other), 1 + 16 / 3, rtol=1e-6)
        assert frechet_distance(0 * one, 0 * other) == 0

    def test_is_symmetric(self):
        features, others = correlated(30, 12), correlated(9, 12, seed=1, shift=1)
        np.testing.assert_allclose(frechet_distance(features, others), frechet_distance(others, features), rtol=1e-6)


class TestKernelDistance:
    def test_is_on_average_the_unbiased_estimate_by_double_loops(self):
        features, others = correlated(8, 3), correlated(9, 3, seed=1, shift=0.3)

        def kernel(x, y):
            return (sum(a * b for a, b in zip(x, y, strict=True)) / 3 + 1) ** 3

        within = [
            np.mean([kernel(x, y) for i, x in enumerate(each) for j, y in enumerate(each) if i != j])
            for each in (features, others)
        ]
        expected = sum(within) - 2 * np.mean([kernel(x, y) for x in features for y in others])
        # At half of 8 images the standard error is the standard deviation over the subsets.
        mean, standard_deviation = kernel_distance(features, others, num_subsets=20_000)
        assert abs(mean - expected) < 4 * standard_deviation / np.sqrt(20_000)
        assert abs(expected) > 8 * standard_deviation / np.sqrt(20_000)  # so that the test can fail

    def test_of_two_points_is_exact(self):
        mean, standard_error = kernel_distance(np.tile([1.0, 2.0], (10, 1)), np.tile([3.0, -1.0], (12, 1)))
        np.testing.assert_allclose(mean, (5 / 2 + 1) ** 3 + (10 / 2 + 1) ** 3 - 2 * (1 / 2 + 1) ** 3)
        assert standard_error < 1e-9

    def test_of_equal_distributions_is_zero_within_its_error_and_of_a_shift_is_not(self):
        random = np.random.default_rng(0)
        equal = [kernel_distance(*random.normal(size=(2, 60, 5)), num_subsets=20).mean for _ in range(200)]
        assert abs(np.mean(equal)) < 4 * np.std(equal) / np.sqrt(200)
        mean, standard_error = kernel_distance(random.normal(size=(600, 5)), random.normal(size=(600, 5)) + 1)
        assert mean > 10 * standard_error > 0

    @pytest.mark.parametrize(("subset_size", "num_subsets"), [(1000, 100), (30, 50)])
    def test_the_standard_error_is_that_over_new_images(self, subset_size, num_subsets):
        random = np.random.default_rng(1)
        distances = [
            kernel_distance(random.normal(size=(120, 4)), random.normal(size=(120, 4)) + 1, subset_size, num_subsets)
            for _ in range(200)
        ]
        means, errors = np.transpose(distances)
        assert 0.8 < np.sqrt(np.mean(errors**2)) / np.std(means) < 1.25

    def test_the_seed_fixes_the_subsets(self):
        features, others = correlated(50, 4), correlated(60, 4, seed=1)
        assert kernel_distance(features, others, seed=3) == kernel_distance(features, others, seed=3)
        assert kernel_distance(features, others, seed=3) != kernel_distance(features, others, seed=4)


def test_both_distances_with_the_numbers_they_are_of():
    features, others = correlated(50, 4), correlated(60, 4, seed=1)
    both = feature_distances(features, others, seed=2)
    assert both.frechet == frechet_distance(features, others)
    assert (both.kernel, both.kernel_standard_error) == kernel_distance(features, others, seed=2)
    assert (both.num_real, both.num_generated, both.num_features) == (50, 60, 4)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_too_few_images_and_features_that_are_not_finite_are_told(distance):
    features = correlated(10, 3)
    for others, message in [
        (features[:1], "needs [24] images of each kind or more: there are 1"),
        (np.where(features > 0, features, np.nan), "not finite: has the model diverged"),
        (np.where(features > 0, features, np.inf), "not finite: has the model diverged"),
    ]:
        with pytest.raises(UserError, match=message):
            distance(features, others)
    for others in (features[:, :2], features[0]):
        with pytest.raises(ValueError, match=r"must be \[N, F\] and \[M, F\]"):
            distance(features, others)
