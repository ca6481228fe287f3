"""The table of `benchmarks/prior_pictures.py`."""

import numpy as np
import pytest

from dvpvae_tf.errors import UserError


@pytest.fixture(scope="module")
def script(import_benchmark):
    return import_benchmark("prior_pictures")


def test_the_table_has_the_distances_of_shifted_gaussians(script):
    """Sets with the same covariance differ by the square of the shift of their means."""
    features = np.random.default_rng(0).normal(size=(50, 4))
    real = [features, features + [3, 0, 0, 0]]
    lines = script.table(real, {"near": [features, features + [0, 1, 0, 0]]})
    assert lines[2:] == [
        "| test images, set against set | 9.00 |  | 9.00 to 9.00 |",
        "| near | 5.00 | 4.50 to 5.50 | 0.00 to 10.00 |",
    ]


def test_sets_of_test_images_share_none(script):
    sets = script.sets_of(np.arange(70), 20, 5)
    np.testing.assert_array_equal(sets, np.arange(60).reshape(3, 20))
    assert len(script.sets_of(np.arange(70), 20, 2)) == 2
    with pytest.raises(UserError, match="70 test images, which are no two sets of 40"):
        script.sets_of(np.arange(70), 40, 5)
