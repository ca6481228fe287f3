"""Trained models, and the data that they were trained on."""

import functools
import zlib
from pathlib import Path

import keras
import numpy as np

from dvpvae_tf.command_line import SPLITS
from dvpvae_tf.config import load_config
from dvpvae_tf.data.pipelines import read_images
from dvpvae_tf.errors import UserError
from dvpvae_tf.models import DVPVAE


def load_model(path, dtype=None):
    """Loads a trained model.

    Args:
        path: folder of a training run, whose best model is taken, or a `.keras` file.
        dtype: str or None, the dtype policy to compute in, such as "mixed_bfloat16"; None keeps the model's.

    Returns:
        `DVPVAE`.

    Raises:
        UserError: if there is no such model, or the file is damaged or holds something else.
    """
    file = Path(path) / "best.keras" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise UserError(f"there is no model {file}: give the folder of a training run, or a .keras file")
    try:
        model = keras.saving.load_model(file, compile=False)
    except Exception as error:  # zipfile, h5py and Keras raise many types for a damaged or foreign file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file} is damaged or holds no model of this library ({reason})") from error
    if not isinstance(model, DVPVAE):
        raise UserError(f"{file} holds a {type(model).__name__}, not a DVPVAE")
    if not model.adapted:
        raise UserError(f"{file} holds a model that was never trained: its pseudoinputs are not adapted")
    if not all(np.isfinite(weight).all() for weight in model.get_weights()):
        raise UserError(f"{file} holds weights that are not finite: take the model of an earlier or another run")
    return model if dtype is None else _with_dtype(model, dtype)


def fingerprint(arrays):
    """Gives a number that tells the weights of two models, or the images of two data sets, apart.

    Args:
        arrays: list of arrays.

    Returns:
        int.
    """
    return functools.reduce(lambda number, array: zlib.crc32(array, number), arrays, 0)


def _with_dtype(model, dtype):
    """The same model, computing in another dtype."""
    config = model.get_config() | {"dtype": dtype}
    if config["prior"] is not None:
        config["prior"]["config"]["dtype"] = dtype
    other = DVPVAE.from_config(config)
    other.set_weights(model.get_weights())
    return other


def model_of(arguments):
    """Loads the model that the arguments name.

    Args:
        arguments: parsed options of `dvpvae_tf.command_line.add_model_arguments`.

    Returns:
        `DVPVAE`.

    Raises:
        UserError: see `load_model`.
    """
    return load_model(arguments.model, "mixed_bfloat16" if arguments.mixed_precision else None)


def run_config(path):
    """Reads the settings of a training run.

    Args:
        path: folder of a training run, or a `.keras` file in one.

    Returns:
        `dvpvae_tf.config.TrainConfig`; None if there is no `config.yaml` there.

    Raises:
        UserError: if it cannot be read.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    file = folder / "config.yaml"
    return load_config(file) if file.is_file() else None


def data_settings(arguments):
    """Gives the settings of the data: the arguments, and for those left out the run's.

    Args:
        arguments: parsed options of `dvpvae_tf.command_line.add_model_arguments` and `add_data_arguments`.

    Returns:
        dict of the arguments of `dvpvae_tf.data.pipelines.read_images`.

    Raises:
        UserError: if neither names a data set.
    """
    given = {key: getattr(arguments, key) for key in ("data_dir", "image_size", "omniglot_mat")}
    config = run_config(arguments.model)
    if config is None and arguments.dataset is None:
        raise UserError(f"{arguments.model} is no run folder, so it names no data: give --dataset")
    if arguments.dataset in (None, getattr(config, "dataset", None)):
        of_run = {key: getattr(config, key) for key in given} if config else given
        given = {key: of_run[key] if value is None else value for key, value in given.items()}
    return {"name": arguments.dataset or config.dataset, **given}


def images_of(arguments, model):
    """Reads the images that the arguments name.

    Args:
        arguments: parsed options of `dvpvae_tf.command_line.add_model_arguments` and `add_data_arguments`.
        model: `DVPVAE`.

    Returns:
        uint8 array `[N, D, D, C]` of the split.

    Raises:
        UserError: if they cannot be read or do not fit the model.
    """
    settings = data_settings(arguments)
    images = read_images(**settings)[SPLITS.index(arguments.split)]
    if images.shape[1:] != model.image_shape:
        sizes = [" x ".join(map(str, shape)) for shape in (images.shape[1:], model.image_shape)]
        raise UserError(f"{settings['name']} has images of {sizes[0]} but the model is for {sizes[1]}")
    return images
