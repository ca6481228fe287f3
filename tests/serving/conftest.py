"""Stand-ins of exported models, quick to load, whose answers are known; and the thin server in a thread."""

import contextlib
import os
import socket
import threading

import numpy as np
import pytest
import tensorflow as tf

SIDE = 4


class StandIn(tf.Module):
    """Image n is grey, of level `10 * version + seed[n]` out of 255; its pseudoinput is the negative of it."""

    def __init__(self, version, hold):
        super().__init__()
        self.level = tf.Variable(10.0 * version)
        self.hold = hold

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

    def held(self, seed):
        """Calls `hold`, in this process alone, and then reads the variable."""
        held = tf.numpy_function(self.hold, [seed], tf.int64)
        with tf.control_dependencies([held]):
            return {"level": self.level + tf.zeros_like(seed, "float32")}


def _png(images):
    levels = tf.cast(tf.math.round(255.0 * tf.where(tf.math.is_nan(images), 0.0, images)), tf.uint8)
    return tf.map_fn(tf.io.encode_png, levels, fn_output_signature=tf.string)


@pytest.fixture(scope="session")
def write_version():
    """Writes version `number` of a stand-in, whole at once, and returns its folder; `hold` is a function of seeds."""

    def write(folder, number, hold=None):
        images = tf.TensorSpec([None, SIDE, SIDE, 1], "float32", "images")
        seed, temperature = tf.TensorSpec([None], "int64", "seed"), tf.TensorSpec([None], "float32", "temperature")
        model = StandIn(number, hold)
        takes = {name: (seed, temperature) for name in ("sample", "sample_png", "sample_alone")}
        takes |= {name: (images,) for name in ("reconstruct", "brightness")}
        takes["reconstruct_png"] = (tf.TensorSpec([None], "string", "image_bytes"),)
        takes |= {"held": (seed,)} if hold else {}
        signatures = {name: tf.function(getattr(model, name), input_signature=specs) for name, specs in takes.items()}
        signatures["serving_default"] = signatures["sample"]
        tf.saved_model.save(model, str(folder / f".writing-{number}"), signatures=signatures)
        os.replace(folder / f".writing-{number}", folder / str(number))
        return folder / str(number)

    return write


@pytest.fixture(scope="session")
def serving():
    """Serves a folder at a free port as long as the context lasts, and gives the URL of the model `grey`."""
    pytest.importorskip("starlette", reason="needs the extra serving: pip install -e '.[serving]'")
    uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serving: pip install -e '.[serving]'")
    from dvpvae_tf.serving.rest import application
    from dvpvae_tf.serving.versions import Versions

    @contextlib.contextmanager
    def serve(folder, **limits):
        versions = Versions(folder)
        versions.update()
        app = application(versions, "grey", poll_seconds=0.05, **limits)
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
    """Version 1, served to all tests that change nothing: at most 8 rows and 64 KiB in a request."""
    folder = tmp_path_factory.mktemp("grey")
    write_version(folder, 1)
    with serving(folder, max_rows=8, max_body_bytes=2**16) as address:
        yield address
