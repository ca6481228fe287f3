"""The floating-point operations of training, against counts by hand."""

import json
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from dvpvae_tf.config import ModelConfig, load_config
from dvpvae_tf.errors import UserError
from dvpvae_tf.experiments import costs
from dvpvae_tf.experiments.costs import graph_flops, training_flops

PROJECT = Path(__file__).resolve().parents[2]


def test_the_products_of_small_layers_are_counted():
    convolution = keras.layers.Conv2D(5, 3, padding="same")
    dense, einsum = keras.layers.Dense(7), keras.layers.EinsumDense("abcd,ed->aebc", (2, 8, 8))

    @tf.function
    def forward(images):
        return einsum(convolution(images)), dense(tf.reshape(images, [4, 192]))

    @tf.function
    def backward(images):
        with tf.GradientTape() as tape:
            loss = sum(map(tf.reduce_sum, forward.python_function(images)))
        return tape.gradient(loss, [convolution.kernel, dense.kernel, einsum.kernel])

    spec = tf.TensorSpec([4, 8, 8, 3])
    once = 2 * 4 * (8 * 8 * 5 * 3 * 3 * 3 + 192 * 7 + 8 * 8 * 5 * 2)
    assert graph_flops(forward.get_concrete_function(spec).graph) == once
    with_backward = graph_flops(backward.get_concrete_function(spec).graph)
    # The gradient of each kernel costs as much again, that of a layer's inputs too.
    assert 2 * once < with_backward <= 3 * once


def multiplications(config):
    """Those of one forward pass of a Ladder VAE's convolutions, an image."""
    channels, hidden, latent = config.channels, config.hidden_channels, config.latent_channels

    def block(side, inputs, outputs):
        skip = 0 if inputs == outputs else inputs * outputs
        return side**2 * (inputs * hidden + 2 * 9 * hidden**2 + hidden * outputs + skip)

    total = config.image_size**2 * config.image_channels * channels
    for side in (config.image_size, *config.scales[:-1]):
        total += config.encoder_blocks * block(side, channels, channels)
    sides = [side for side, layers in zip(config.scales, config.layers_per_scale, strict=True) for _ in range(layers)]
    for number, side in enumerate(sides):
        last = number == 0  # of the layers, which run from coarse to fine
        total += block(side, channels, 2 * latent + (0 if last else channels)) + block(side, channels, 2 * latent)
        total += 0 if last else side**2 * latent * channels + block(side, channels, channels)
    return total + config.image_size**2 * (latent * channels + 9 * channels * 1)


def test_a_step_is_three_times_the_convolutions_of_a_forward_pass(tiny, tiny_settings):
    ladder = {"pseudoinput": "none", "hidden_channels": 6, "layers_per_scale": (2, 1)}
    expected = 3 * 2 * multiplications(ModelConfig(**tiny_settings | ladder))
    assert training_flops(tiny(**ladder), batch_size=2) == pytest.approx(expected, rel=1e-9)


def test_the_prior_over_u_and_the_components_of_a_vamp_prior_count(tiny):
    plain = training_flops(tiny(pseudoinput="none"), 2)
    assert training_flops(tiny(), 2) > 1.1 * plain
    components = tiny(pseudoinput="none", vamp_components=6)
    few, many = (training_flops(components, batch_size) for batch_size in (2, 12))
    assert few > many > plain, "the components are encoded once a step"


@pytest.mark.slow
def test_the_cost_of_the_papers_trainings_is_told(tmp_path):
    script = [sys.executable, str(PROJECT / "benchmarks" / "cost_of_training.py")]
    options = ["--presets", "mnist", "--output", "cost.json"]
    environment = {"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin"}
    result = subprocess.run([*script, *options], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    (cost,) = json.loads((tmp_path / "cost.json").read_text())
    assert cost["images"] == 300 * 220 * 250 and cost["parameters"] == 646_371
    assert cost["flops"] / cost["images"] / 1e9 == pytest.approx(0.71, abs=0.005)
    assert cost["hours"]["this machine"] == pytest.approx(cost["images"] / 250 / 3600)
    assert cost["hours"]["the paper"] == pytest.approx(300 * 45 / 3600)
    assert cost["hours"]["A100"] == pytest.approx(cost["flops"] / 0.3 / 19.5e12 / 3600)
    row = next(line for line in result.stdout.splitlines() if line.startswith("| mnist |"))
    assert "| 16,500,000 |" in row and row.endswith("| 3.8 |")
    assert row in (PROJECT / "docs" / "scaling.md").read_text(encoding="utf-8").splitlines()


def test_a_process_that_is_killed_is_told(monkeypatch, images):
    class Killed(ProcessPoolExecutor):
        def submit(self, *_):
            raise BrokenProcessPool

    monkeypatch.setattr(costs.concurrent.futures, "ProcessPoolExecutor", Killed)
    with pytest.raises(UserError, match="the measuring process was killed: is there enough memory"):
        costs.measure_in_new_process(load_config("mnist5k"), images(4), 1, 1)
