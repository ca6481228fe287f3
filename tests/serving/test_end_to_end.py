"""The sampler that comes with the project, from a server to the client."""

import shutil
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import requests
import tensorflow as tf

from dvpvae_tf import client
from dvpvae_tf.serving.client import predict, sample
from dvpvae_tf.serving.saved_model import load_newest

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "saved_models" / "mnist"
SEEDS = [3, 0, 11]


@pytest.fixture(scope="module")
def loaded():
    return load_newest(MODEL)


@pytest.fixture(scope="module")
def expected(loaded):
    """Its images of `SEEDS` at temperature 0.8, as levels."""
    outputs = loaded.module.signatures["sample"](
        seed=tf.constant(SEEDS, tf.int64), temperature=tf.fill([len(SEEDS)], 0.8)
    )
    return 255 * outputs["images"].numpy()


def check(samples, expected):
    assert samples.images.shape == samples.pseudoinputs.shape == (len(SEEDS), 28, 28, 1)
    assert np.abs(samples.images - expected).max() < 0.6
    assert expected.max() > 200 and expected.mean() < 80  # white strokes on black


def test_the_thin_server_and_the_client_draw_the_models_images(loaded, expected, serving, tmp_path):
    with serving(loaded) as url:
        check(sample(url, SEEDS, 0.8), expected)
        client.main(
            ["--url", url, "--num", "4", "--seed", "0", "--batch-size", "3", "--output", str(tmp_path / "a.npz")]
        )
        images = np.load(tmp_path / "a.npz")["images"]
        assert np.abs(images[[3, 0]] - expected[:2]).max() < 0.6
        scores = predict(url, "score", {"images": expected / 255, "seed": np.arange(3)})
        blank = predict(url, "score", {"images": np.full([3, 28, 28, 1], 0.5), "seed": np.arange(3)})
        assert scores["negative_elbo"].max() < 300 < blank["negative_elbo"].min()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.skipif(
    not shutil.which("tensorflow_model_server"), reason="needs TensorFlow Serving: tensorflow_model_server on the PATH"
)
def test_tensorflow_serving_draws_the_same_images_over_rest_and_grpc(expected, tmp_path):
    rest, grpc = free_port(), free_port()
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(
            [
                "tensorflow_model_server", f"--rest_api_port={rest}", f"--port={grpc}", "--model_name=mnist",
                f"--model_base_path={MODEL}", "--enable_batching",
                f"--batching_parameters_file={ROOT / 'deploy' / 'tensorflow-serving' / 'batching.config'}",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{rest}/v1/models/mnist"
        for _ in range(120):
            try:
                states = requests.get(url, timeout=5).json()["model_version_status"]
                if states[0]["state"] == "AVAILABLE":
                    break
            except requests.RequestException:
                pass
            assert server.poll() is None, (tmp_path / "log").read_text()[-2000:]
            time.sleep(1)
        check(sample(url, SEEDS, 0.8), expected)
        check(sample(f"grpc://127.0.0.1:{grpc}/mnist", SEEDS, 0.8), expected)
    finally:
        server.terminate()
        server.wait(30)
