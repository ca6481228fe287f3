"""The preset of 64 x 64 colour pictures, as its user meets it: photographs in a folder."""

import csv
import re

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from dvpvae_tf.config import load_config
from dvpvae_tf.models.build import build_model
from dvpvae_tf.train import main

PARAMETERS = 6_384_463
NARROW = {
    "channels": 8, "hidden-channels": 8, "layers-per-scale": "1,1,1,1,1", "encoder-blocks": 1, "prior-channels": 16,
    "prior-blocks": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two photographs cut into 120 patches of 64 x 64."""
    folder = tmp_path_factory.mktemp("photos")
    for number, photo in enumerate(load_sample_images().images):
        for top in range(0, photo.shape[0] - 63, 64):
            for left in range(0, photo.shape[1] - 63, 64):
                patch = Image.fromarray(photo[top : top + 64, left : left + 64])
                patch.save(folder / f"{number}_{top}_{left}.png")
    return folder


def train(photos, *options):
    main(["--config", "images64", "--dataset", f"folder:{photos}", "--image-size", "64", *map(str, options)])


@pytest.mark.slow
def test_a_narrower_model_learns_from_photographs(photos, tmp_path, capsys):
    narrow = [f"--model.{name}={value}" for name, value in NARROW.items()]
    schedule = ["--batch-size", 8, "--epochs", 3, "--warmup-epochs", 0, "--learning-rate", 0.01]
    train(photos, *narrow, *schedule, "--picture-every-epochs", 3, "--output", tmp_path)
    with open(tmp_path / "images64" / "metrics.csv", newline="") as file:
        epochs = list(csv.DictReader(file))
    bits = [float(epoch["bits_per_dim"]) for epoch in epochs]
    assert bits[0] > bits[1] > bits[2] and bits[2] < 8, "better than guessing: 256 levels are 8 bits"
    assert {float(epoch["skipped_steps"]) for epoch in epochs} == {0}
    with Image.open(tmp_path / "images64" / "samples.png") as picture:
        assert picture.mode == "RGB"
    tested = re.search(r"nats, ([\d.]+) \+-", capsys.readouterr().out)[1]
    assert 0 < float(tested) < bits[0]


@pytest.mark.slow
def test_a_dry_run_says_how_large_the_model_is(photos, capsys, monkeypatch):
    monkeypatch.setattr("dvpvae_tf.train._print_costs", lambda *_: None)
    train(photos, "--dry-run")
    printed = capsys.readouterr().out
    assert f"Trainable parameters: {PARAMETERS:,}" in printed
    assert "200 epochs of 1 steps of 64 images" in printed


@pytest.mark.slow
def test_larger_pictures_take_the_same_weights():
    model = build_model(load_config("images64", {"image_size": 128, "model": {"image_size": 128}}).model)
    assert model.image_shape == (128, 128, 3) and model.num_parameters == PARAMETERS
    assert model.top_down.scales == (64, 32, 16, 8, 4)
