"""The table and the picture of `benchmarks/gradient_norms.py`."""

import sys

import keras
import numpy as np
import pytest

from dvpvae_tf.config import load_config, write_config
from dvpvae_tf.errors import UserError
from dvpvae_tf.files import write_csv


@pytest.fixture
def run(tmp_path):
    """A run folder of 103 steps in two epochs; the second epoch has skipped one of them."""
    write_config(load_config("mnist5k", {"batch_size": 8, "gradient_clip_norm": 5}), tmp_path / "config.yaml")
    norms = [2000.0, 30.0] + [4.0] * 98 + [1.0, 2.0, 6.0]
    write_csv(tmp_path / "gradient_norms.csv", [{"gradient_norm": norm} for norm in norms])
    epochs = [{"skipped_steps": 0.0, "val_bits_per_dim": 2.5}, {"skipped_steps": 1.0, "val_bits_per_dim": 1.25}]
    write_csv(tmp_path / "metrics.csv", epochs)
    return tmp_path


def test_the_table_separates_the_first_steps_from_the_later_ones(import_benchmark, run):
    script = import_benchmark("gradient_norms")
    assert script.row_of("a", run, script.norms_of(run)) == [
        "a",
        "103 of 8 images",
        "2,000",
        "2.00, 5.92, 6.00",
        "5",
        "33.3%",
        "1",
        "2.500, 1.250, 1.250",
    ]


def test_a_short_run_has_no_later_steps(import_benchmark, run):
    with pytest.raises(UserError, match="has 100 steps: the table needs more than 100"):
        import_benchmark("gradient_norms").row_of("a", run, np.ones(100))


def test_the_page_and_the_picture_are_written(import_benchmark, run, monkeypatch):
    page = run / "norms.md"
    monkeypatch.setattr(sys, "argv", ["gradient_norms.py", f"a={run}", "--output", str(page)])
    import_benchmark("gradient_norms").main()
    assert "![The norm of the gradient at each step](norms.png)" in page.read_text()
    assert keras.utils.img_to_array(keras.utils.load_img(run / "norms.png")).std() > 0
