"""A version folder for TensorFlow Serving: the SavedModel and, in `assets.extra/`, what is to be known of it."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from dvpvae_tf.config.settings import settings_as_yaml
from dvpvae_tf.errors import UserError
from dvpvae_tf.files import write_atomically
from dvpvae_tf.serving import signatures

EXTRA = "assets.extra"
WARMUP = "tf_serving_warmup_requests"
CARD = """# {name}, version {version}

A DVP-VAE (Kuzina and Tomczak, "Hierarchical VAE with a Diffusion-based VampPrior", TMLR 2024) of {parameters:,}
parameters for images of {shape}, exported by dvpvae_tf {library}.

* Trained on: {dataset}.
* Diffusion steps T: {steps}. Temperature of the prior over u, fixed at export: {prior_temperature:g}.
* Bound: {bound}
* Made with: {command}{training}

## Signatures

All work row by row: a row's answer depends on that row alone, not on its batch.

| signature | inputs | outputs |
|---|---|---|
{table}

`sample` is `serving_default`, too. The same `seed` gives the same image; `temperature` (0 or more) is that of z: below
1 images are more alike and cleaner. `reconstruct` and `encode` are without noise: `pseudoinput` is the mean of r(u|x),
`z_l` the posterior means. `score` gives for each image `negative_elbo`, {score},
from one draw of all noise, in nats, and its terms: the lower, the more an image is like the training images. A single
draw is noisy: average over seeds.

A row that cannot be answered has NaN or a blank picture, and `error` says why; otherwise `error` is empty. A PNG file
that has its beginning and its end but is damaged between them makes its whole batch fail.

## Limits

Samples are like the training data and inherit its gaps. A likelihood is no proof that an image is normal: images of
another kind can score well.
"""


def next_version(folder):
    """Gives the number of the version to be written next.

    Args:
        folder: path of the exported model, there or not.

    Returns:
        int, one more than the newest there, or 1.
    """
    folder = Path(folder)
    versions = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return max(versions, default=0) + 1


def check_version(folder, version):
    """Checks, before long work, that a version can be written.

    Args:
        folder: path of the exported model, there or not.
        version: int.

    Raises:
        UserError: if it is there already, or the folder cannot be made or written to.
    """
    folder = Path(folder)
    if (folder / str(version)).exists():
        raise UserError(f"{folder / str(version)} exists: leave out --version, or give another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}: give another --output") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write to the folder {folder}: give another --output")


def write_version(folder, version, model, config=None, bound=None, steps=None, prior_temperature=1.0, command=None):
    """Writes a version whole or not at all.

    Beside the SavedModel there are, in `assets.extra/`, `model_card.md`; `config.yaml`, the settings of the run without
    its paths, and `bound.json`, where they are given; requests to warm up with, where tensorflow-serving-api is
    installed.

    Args:
        folder: path of the exported model.
        version: int.
        model: `DVPVAE`.
        config: `dvpvae_tf.config.settings.TrainConfig` of the run, or None.
        bound: dict, `Evaluation.summary()` with the key "data", the name of the images, or None.
        steps: int or None, T; None takes that of the model.
        prior_temperature: float, of the prior over u.
        command: str or None, the command that made it, for the model card.

    Returns:
        Path of the version.

    Raises:
        UserError: if the version exists or cannot be written.
    """
    check_version(folder, version)
    path = Path(folder) / str(version)
    steps = steps or getattr(model.prior, "steps", None)

    def write(temporary):
        signatures.save(temporary, model, steps, prior_temperature)
        extra = temporary / EXTRA
        extra.mkdir()
        served = tf.saved_model.load(str(temporary)).signatures
        about = _about(path, model, config) | {
            "bound": _bound(bound),
            "command": f"`{command}`" if command else "not recorded",
            "training": " after `python -m dvpvae_tf.train --config config.yaml`, the file beside this one"
            if config
            else "",
            "prior_temperature": prior_temperature,
            "score": f"the negative ELBO of the process of T = {steps} steps" if steps else "the negative ELBO",
            "steps": steps or "none (no diffusion prior)",
            "table": _table(served),
        }
        (extra / "model_card.md").write_text(CARD.format_map(about), encoding="utf-8")
        if config is not None:
            config_without_paths = config.model_copy(update={"data_dir": None, "omniglot_mat": None, "output": "runs"})
            (extra / "config.yaml").write_text(settings_as_yaml(config_without_paths), encoding="utf-8")
        if bound is not None:
            (extra / "bound.json").write_text(json.dumps(bound, indent=2) + "\n", encoding="utf-8")
        if can_warm_up():
            _write_warmup(extra / WARMUP, path.parent.name, served)

    write_atomically(path, write)
    return path


def can_warm_up():
    """Tells whether the package is installed that requests to warm up with are written by.

    Returns:
        bool.
    """
    return importlib.util.find_spec("tensorflow_serving") is not None


def _write_warmup(path, name, served):
    """One request of two rows for each signature: TensorFlow Serving runs them before a version answers."""
    from tensorflow_serving.apis.predict_pb2 import PredictRequest
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog, PredictLog

    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature_name, signature in served.items():
            request = PredictRequest()
            request.model_spec.name = name
            request.model_spec.signature_name = signature_name
            for input_name, spec in signature.structured_input_signature[1].items():
                request.inputs[input_name].CopyFrom(tf.make_tensor_proto(_example(spec)))
            writer.write(PredictionLog(predict_log=PredictLog(request=request)).SerializeToString())


def _example(spec):
    """Two rows for an input: black images, seed 0, temperature 0; no files (those rows are told to be bad)."""
    return np.zeros([2, *spec.shape[1:]], spec.dtype.as_numpy_dtype) if spec.dtype != tf.string else [b"", b""]


def _about(path, model, config):
    """What the model card says of the model itself."""
    from dvpvae_tf import __version__

    height, width, channels = model.image_shape
    return {
        "name": path.parent.name,
        "version": path.name,
        "parameters": model.num_parameters,
        "shape": f"{height} x {width} x {channels}, float32 in [0, 1]",
        "library": __version__,
        "dataset": f"{config.dataset}, {config.epochs} epochs, seed {config.seed}" if config else "not recorded",
    }


def _table(served):
    """The signatures as rows of Markdown."""
    rows = []
    for name, signature in sorted(served.items()):
        inputs = _specs(sorted(signature.structured_input_signature[1].items()))
        rows.append(f"| `{name}` | {inputs} | {_specs(sorted(signature.structured_outputs.items()))} |")
    return "\n".join(rows)


def _specs(items):
    return ", ".join(f"`{name}` {spec.dtype.name} [{', '.join(map(_side, spec.shape))}]" for name, spec in items)


def _side(side):
    return "N" if side is None else str(side)


def _bound(bound):
    if bound is None:
        return "not measured."
    nats, elbo = (
        f"{bound[key]['mean']:.2f} +- {bound[key]['standard_error'] or 0:.2f} nats" for key in ("nats", "negative_elbo")
    )
    return (
        f"{nats}, or {bound['bits_per_dim']['mean']:.4f} bits per dimension, by {bound['estimator']}; negative ELBO "
        f"{elbo}. Means and standard errors over the first {bound['images']:,} images of {bound['data']}; seed "
        f"{bound['seed']}."
    )
