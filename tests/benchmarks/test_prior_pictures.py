"""The arguments and the table of `benchmarks/prior_pictures.py`."""

import argparse
import importlib
from pathlib import Path

import numpy as np
import pytest

from dvpvae_tf.errors import UserError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    """The script as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("prior_pictures")


def test_a_prior_is_a_name_a_model_and_its_steps(script):
    assert script.prior_of("mixture=mnist") == ("mixture", "mnist", None)
    assert script.prior_of("calibrated, T = 5=runs/a/best.keras@5") == ("calibrated, T = 5", "runs/a/best.keras", 5)
    for wrong in ("mnist", "=mnist", "mixture="):
        with pytest.raises(argparse.ArgumentTypeError, match="is not NAME=MODEL or NAME=MODEL@T"):
            script.prior_of(wrong)


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
