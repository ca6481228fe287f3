"""An exported tiny model, a stand-in with known answers that loads quickly, and the thin server in a thread."""

import contextlib
import inspect
import socket
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from dvpvae_tf import evaluation, export
from dvpvae_tf.command_line import inputs as command_inputs
from dvpvae_tf.data.pipelines import LoadedDataset
from dvpvae_tf.models.loading import load_model
from dvpvae_tf.serving.saved_model import load_newest

SIDE = 4


class StandIn(tf.Module):
    """Image n is grey, of level `10 * version + seed[n]` out of 255; its pseudoinput is the negative of it."""

    def __init__(self, version):
        super().__init__()
        self.level = tf.Variable(10.0 * version)

    def _sample(self, seed, temperature):
        grey = (self.level + tf.cast(seed, "float32")) / 255.0
        good = temperature >= 0.0  # false for NaN
        grey = tf.where(good, grey, np.nan)
        images = tf.tile(grey[:, None, None, None], [1, SIDE, SIDE, 1])
        return images, 1.0 - images, tf.where(good, "", "the temperature is below 0")

    def sample(self, seed, temperature):
        images, pseudoinputs, error = self._sample(seed, temperature)
        return {"images": images, "pseudoinputs": pseudoinputs, "error": error}

    def sample_png(self, seed, temperature):
        images, pseudoinputs, error = self._sample(seed, temperature)
        return {"image_bytes": _png(images), "pseudoinput_bytes": _png(pseudoinputs), "error": error}

    def sample_mean_png(self, seed, temperature):
        return self.sample_png(seed + 100, temperature)

    def sample_label_png(self, seed, temperature, label):
        return self.sample_png(seed + 10 * tf.cast(label, "int64"), temperature)

    def sample_alone(self, seed, temperature):
        outputs = self.sample_png(seed, temperature)
        return {name: outputs[name] for name in ("image_bytes", "error")}

    def reconstruct(self, images):
        return {"reconstructions": images, "error": tf.fill(tf.shape(images)[:1], "")}

    def reconstruct_png(self, image_bytes):
        images = tf.map_fn(lambda png: tf.io.decode_png(png, channels=1), image_bytes, fn_output_signature=tf.uint8)
        encoded = tf.map_fn(tf.io.encode_png, images, fn_output_signature=tf.string)
        return {"reconstruction_bytes": encoded, "error": tf.fill(tf.shape(encoded), "")}

    def brightness(self, images):
        return {"brightness": tf.reduce_mean(images, axis=[1, 2, 3])}

    def fails(self, seed):
        def fail(_):
            raise OSError("secret")

        return {"seed": tf.ensure_shape(tf.numpy_function(fail, [seed], tf.int64), [None])}


def _png(images):
    levels = tf.cast(tf.math.round(255.0 * tf.where(tf.math.is_nan(images), 0.0, images)), tf.uint8)
    return tf.map_fn(tf.io.encode_png, levels, fn_output_signature=tf.string)


@pytest.fixture(scope="session")
def write_version():
    """Writes version `number` of a stand-in and returns its folder."""

    def write(folder, number):
        images = tf.TensorSpec([None, SIDE, SIDE, 1], "float32", "images")
        seed, temperature = tf.TensorSpec([None], "int64", "seed"), tf.TensorSpec([None], "float32", "temperature")
        model = StandIn(number)
        takes = {name: (seed, temperature) for name in ("sample", "sample_png", "sample_mean_png", "sample_alone")}
        takes["sample_label_png"] = (seed, temperature, tf.TensorSpec([None], "int32", "label"))
        takes |= {name: (images,) for name in ("reconstruct", "brightness")}
        takes["reconstruct_png"] = (tf.TensorSpec([None], "string", "image_bytes"),)
        takes["fails"] = (seed,)
        signatures = {name: tf.function(getattr(model, name), input_signature=specs) for name, specs in takes.items()}
        signatures["serving_default"] = signatures["sample"]
        tf.saved_model.save(model, str(folder / str(number)), signatures=signatures)
        return folder / str(number)

    return write


@pytest.fixture(scope="session")
def serving():
    """Serves a loaded version at a free port as long as the context lasts, and gives the URL of the model `grey`."""
    pytest.importorskip("starlette", reason="needs the extra serving: pip install -e '.[serving]'")
    uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serving: pip install -e '.[serving]'")
    from dvpvae_tf.serving.server import application

    @contextlib.contextmanager
    def serve(loaded, **limits):
        app = application(loaded, "grey", **limits)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/models/grey"
            finally:
                server.should_exit = True
                thread.join()

    return serve


@pytest.fixture(scope="session")
def url(write_version, serving, tmp_path_factory):
    """Version 1, served to all tests: at most 8 rows and 64 KiB in a request."""
    folder = tmp_path_factory.mktemp("grey")
    write_version(folder, 1)
    with serving(load_newest(folder), max_rows=8, max_body_bytes=2**16) as address:
        yield address


class Bound:
    """A measured bound that takes no time."""

    def summary(self):
        measured = {name: {"mean": 90.5, "standard_error": 1.25} for name in ("nats", "negative_elbo", "bits_per_dim")}
        return measured | {"estimator": "iwae, K = 4, T = 2", "images": 5, "seed": 0}


class Exported(NamedTuple):
    """What the command wrote for a tiny model, that model, and how it asked for the bound."""

    version: Path
    model: object
    signatures: dict
    bound_arguments: dict


@pytest.fixture(scope="session")
def exported(leave_run, images, tmp_path_factory):
    """The tiny model exported by the command, once: T = 2, temperature of the prior 0.7, a bound of 5 images."""
    run, output = leave_run(data_dir="secret"), tmp_path_factory.mktemp("saved_models") / "blobs"
    asked, signature = {}, inspect.signature(evaluation.iwae)

    def iwae(*args, **kwargs):
        asked.update(signature.bind(*args, **kwargs).arguments)
        return Bound()

    with pytest.MonkeyPatch.context() as patch:
        data = LoadedDataset(tuple(images(num, seed=num) for num in (30, 20, 12)))
        patch.setattr(command_inputs, "read_dataset", lambda **_: data)
        patch.setattr(evaluation, "iwae", iwae)
        options = ["--steps=2", "--prior-temperature=0.7", "--bound-images=5", "--bound-samples=4"]
        export.main([f"--model={run}", f"--output={output}", *options])
    version = output / "1"
    return Exported(version, load_model(run), tf.saved_model.load(str(version)).signatures, asked)
