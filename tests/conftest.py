"""What many tests share: small models, small images, and the data beside the project where they are."""

import gc
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pytest

# A shell that starts the tests in the background has them ignore Ctrl-C, and their subprocesses, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared"
MOST_SECONDS = 20  # of a test, or of its fixtures, on an idle core; above that it is to be marked slow


def pytest_terminal_summary(terminalreporter):
    """Lists the tests that took too long and are not marked slow: on busy cores perhaps too many. It fails none."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    timed = [report for report in reports if getattr(report, "when", None) in ("setup", "call")]
    long = [report for report in timed if report.duration > MOST_SECONDS and "slow" not in report.keywords]
    if long:
        terminalreporter.section("mark these slow")
    for report in sorted(long, key=lambda report: -report.duration):
        terminalreporter.line(f"{report.duration:.0f} s {report.when:5} {report.nodeid}")


@pytest.fixture(autouse=True, scope="session")
def trace_faster():
    """Turns off TensorFlow's rewriting of graphs, which is a third of the time to a first step.

    The snippets and the commands that run in processes of their own have it, as their users do.
    """
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(autouse=True, scope="module")
def free_memory():
    """Models and graphs hold one another: without this, those of all tests add up to many gigabytes.

    What is left, TensorFlow and graphs that it keeps, is not searched again: that would take seconds each time.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def shared():
    """The folder of real data beside the project."""
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED}, which is not part of the project")
    return SHARED


@pytest.fixture(scope="session")
def tiny_settings():
    """The config of a model of two stochastic layers for 8x8 images."""
    return {
        "image_size": 8,
        "scales": (4, 2),
        "layers_per_scale": (1, 1),
        "channels": 8,
        "hidden_channels": 8,
        "encoder_blocks": 1,
        "pseudoinput_size": 3,
        "prior": "diffusion",
        "prior_blocks": 1,
        "diffusion_steps": 3,
    }


@pytest.fixture(scope="session")
def tiny(tiny_settings):
    """Makes that model; keywords change its config."""
    from dvpvae_tf.config import ModelConfig
    from dvpvae_tf.models.build import build_model

    def make(dtype=None, seed=0, **changes):
        return build_model(ModelConfig(**tiny_settings | changes), dtype=dtype, seed=seed)

    return make


@pytest.fixture(scope="session")
def images():
    """Makes uint8 images of smooth blobs, `[num, 8, 8, channels]`."""

    def make(num=12, channels=1, side=8, seed=0):
        rng = np.random.default_rng(seed)
        centre = rng.uniform(1, side - 2, (num, 2, 1, 1, channels))
        rows, columns = np.mgrid[:side, :side][:, None, :, :, None]
        distance = (rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2
        return (255 * np.exp(-distance / 6)).astype("uint8")

    return make


@pytest.fixture(scope="session")
def save_splits():
    """Writes images as a folder whose subfolders are its splits: the last tenths are those of validation and test."""
    from PIL import Image

    def save(folder, images):
        tenth = len(images) // 10
        parts = np.split(images, [len(images) - 2 * tenth, len(images) - tenth])
        for split, part in zip(("train", "validation", "test"), parts, strict=True):
            (folder / split).mkdir(parents=True)
            for index, image in enumerate(part):
                Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(folder / split / f"{index}.png")
        return folder

    return save


@pytest.fixture(scope="session")
def leave_run(tmp_path_factory, tiny, tiny_settings, images):
    """Makes a folder as training leaves it, with the best model and its settings; keywords change these."""
    from dvpvae_tf.config import load_config, write_config

    def leave(**settings):
        folder = tmp_path_factory.mktemp("run")
        model = tiny()
        model.adapt(images(64))
        model.save(folder / "best.keras")
        config = load_config("mnist5k", {"dataset": "folder:blobs", "model": tiny_settings} | settings)
        write_config(config, folder / "config.yaml")
        return folder

    return leave


@pytest.fixture(scope="session")
def lively(tiny, images):
    """Makes an adapted model whose weights are far from where training starts, so that all parts of it matter."""

    def make(channels=1, **changes):
        model = tiny(**changes)
        model.adapt(images(50, channels))
        rng = np.random.default_rng(1)
        for weight in (*model.bottom_up.trainable_weights, *model.top_down.trainable_weights):
            weight.assign_add(0.2 * rng.standard_normal(weight.shape))
        return model

    return make
