"""Versions of an exported model: folders `1`, `2`, ..., each a SavedModel with its model card.

This is the layout of TensorFlow Serving. What describes a version lies in its subfolder `assets.extra`.
"""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from dvpvae_tf.config import TrainConfig, settings_as_yaml
from dvpvae_tf.errors import UserError, first_line
from dvpvae_tf.files import write_atomically, write_json, write_text
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.models.sampling import check_prior_temperature
from dvpvae_tf.serving import signatures
from dvpvae_tf.serving.model_card import model_card

EXTRA = "assets.extra"
WARMUP = "tf_serving_warmup_requests"


class LoadedVersion(NamedTuple):
    """A version in memory: its number, and what `tf.saved_model.load` returns."""

    version: int
    module: Any


def load_newest(folder: str | Path) -> LoadedVersion:
    """Loads the newest version of an exported model.

    Args:
        folder: folder of the exported model, which holds the version folders.

    Returns:
        `LoadedVersion`.

    Raises:
        UserError: if the folder cannot be read, it holds no version, or the newest cannot be loaded.
    """
    try:
        version = _newest(Path(folder))
    except OSError as error:
        raise UserError(f"cannot read the folder {folder} ({error.strerror}): give one that export has made") from error
    if not version:
        raise UserError(f"{folder} should hold versions in folders 1, 2, ... and has none: export one")
    try:
        return LoadedVersion(version, tf.saved_model.load(str(Path(folder) / str(version))))
    except Exception as error:  # TensorFlow raises many types for a damaged SavedModel
        reason = first_line(error)
        raise UserError(f"cannot load version {version} of {folder} ({reason}): export it again") from error


def next_version(folder: str | Path) -> int:
    """Returns the number of the version to write next.

    Args:
        folder: folder of the exported model; it need not exist.

    Returns:
        One more than the newest version, or 1.
    """
    folder = Path(folder).expanduser()
    return _newest(folder) + 1 if folder.is_dir() else 1


def _newest(folder: Path) -> int:
    """The largest version, or 0 where there is none."""
    names = (path.name for path in folder.iterdir() if path.is_dir())
    return max((int(name) for name in names if name.isascii() and name.isdigit()), default=0)


def check_version(folder: str | Path, version: int) -> None:
    """Checks, before long work, that a version can be written.

    Args:
        folder: folder of the exported model; it need not exist.
        version: number of the version.

    Raises:
        UserError: if the version exists, or the folder cannot be made or written to.
    """
    folder = Path(folder).expanduser().absolute()
    if (folder / str(version)).exists():
        raise UserError(f"{folder / str(version)} exists: leave out --version, or give another")
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise UserError(f"cannot make the folder {folder}: {nearest} is a file: give another --output")
    if not os.access(nearest, os.W_OK):
        raise UserError(f"cannot write to the folder {nearest}: give another --output")


def write_version(
    folder: str | Path,
    version: int,
    model: DVPVAE,
    config: TrainConfig | None = None,
    bound: dict | None = None,
    steps: int | None = None,
    prior_temperature: float = 1.0,
    command: str | None = None,
    metadata: dict | None = None,
) -> Path:
    """Writes a version, whole or not at all.

    `assets.extra` gets `model_card.md`; `config.yaml`, the settings of the run without its paths, and `bound.json`,
    where these are given; and the warm-up requests that TensorFlow Serving runs before a version answers, where
    tensorflow-serving-api is installed.

    Args:
        folder: folder of the exported model.
        version: number of the version.
        model: trained model.
        config: settings of the run, or None.
        bound: `Evaluation.summary()` with the key "data", the name of the images, or None.
        steps: T of the diffusion prior; None takes the model's own.
        prior_temperature: temperature of the prior over u.
        command: command that was run, for the model card, or None.
        metadata: what the `metadata.json` of a trained model says of it, for the model card, or None.

    Returns:
        Folder of the version.

    Raises:
        UserError: if the version exists or cannot be written, or `prior_temperature` is for models with pseudoinputs.
        ValueError: if `adapt` has not been called, or the prior is not fitted.
    """
    check_version(folder, version)
    model.check_fitted()
    check_prior_temperature(model, prior_temperature)
    folder = Path(folder).expanduser()
    path, name = folder / str(version), folder.resolve().name
    steps = model.prior.check_steps(steps) if model.prior else None

    def write(temporary: Path) -> None:
        signatures.save(temporary, model, steps, prior_temperature)
        served = tf.saved_model.load(str(temporary)).signatures
        extra = temporary / EXTRA
        extra.mkdir()
        card = model_card(name, version, model, served, config, bound, steps, prior_temperature, command, metadata)
        write_text(extra / "model_card.md", card)
        if config is not None:
            without_paths = config.model_copy(update={"data_dir": None, "omniglot_mat": None, "output": "runs"})
            write_text(extra / "config.yaml", settings_as_yaml(without_paths))
        if bound is not None:
            write_json(extra / "bound.json", bound)
        if has_serving_api():
            _write_warmup_requests(extra / WARMUP, name, served)

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path.parent}: {error.strerror}: give another --output") from error
    write_atomically(path, write)
    return path


def has_serving_api() -> bool:
    """Returns whether tensorflow-serving-api, which writes the warm-up requests, is installed."""
    return importlib.util.find_spec("tensorflow_serving") is not None


def _write_warmup_requests(path: Path, name: str, served: Mapping[str, tf.types.experimental.ConcreteFunction]) -> None:
    """Writes one request of two rows for each signature: black images, seed 0, temperature 0, empty files."""
    from tensorflow_serving.apis.predict_pb2 import PredictRequest
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog, PredictLog

    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature_name, signature in served.items():
            request = PredictRequest()
            request.model_spec.name = name
            request.model_spec.signature_name = signature_name
            for input_name, spec in signature.structured_input_signature[1].items():
                rows = [b"", b""] if spec.dtype == tf.string else np.zeros([2, *spec.shape[1:]], spec.dtype.name)
                request.inputs[input_name].CopyFrom(tf.make_tensor_proto(rows))
            writer.write(PredictionLog(predict_log=PredictLog(request=request)).SerializeToString())
