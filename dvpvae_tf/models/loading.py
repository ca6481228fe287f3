"""Trained models from files."""

from pathlib import Path
from typing import Any

import keras
import numpy as np

from dvpvae_tf.errors import UserError, first_line
from dvpvae_tf.models.dvpvae import DVPVAE
from dvpvae_tf.models.model_folder import changed_config, is_model_folder_or_name, load_model_folder, trained_models


def load_model(path: str | Path, dtype: str | None = None) -> DVPVAE:
    """Loads a trained model, not compiled.

    Args:
        path: folder of a training run, whose best model is taken, or a `.keras` file, or a model folder, or the name of
            a trained model that comes with the library, such as "mnist".
        dtype: the dtype policy to compute in, "float32" or "mixed_bfloat16"; None keeps the model's.

    Returns:
        The model, adapted, with finite weights.

    Raises:
        UserError: if there is no such model, or the file is damaged or holds something else.
    """
    file = Path(path).expanduser()
    file = file / "best.keras" if file.is_dir() else file
    if not file.is_file() and is_model_folder_or_name(path):
        settings: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
        return load_model_folder(path, **settings)
    if not file.is_file():
        names = "".join(f", {name}" for name in trained_models())
        raise UserError(
            f"there is no model {file}: give the folder of a training run, a .keras file, or a trained model's name"
            + (f" ({names[2:]})" if names else "")
        )
    try:
        model = keras.saving.load_model(file, compile=False)
    except Exception as error:  # zipfile, h5py and Keras raise many types for a damaged or foreign file
        reason = first_line(error)
        raise UserError(f"{file} is damaged or holds no model of this library ({reason})") from error
    if not isinstance(model, DVPVAE):
        raise UserError(f"{file} holds a {type(model).__name__}, not a DVPVAE")
    if not model.adapted:
        raise UserError(f"{file} holds a model that was never trained: its pseudoinputs are not adapted")
    if not all(np.isfinite(weight).all() for weight in model.get_weights()):
        raise UserError(f"{file} holds weights that are not finite: take the model of an earlier or another run")
    return model if dtype is None else _with_dtype(model, dtype)


def _with_dtype(model: DVPVAE, dtype: str) -> DVPVAE:
    """Makes a copy of the model that computes in another dtype."""
    other = DVPVAE.from_config(changed_config(model.get_config(), {"dtype": dtype}))
    other.set_weights(model.get_weights())
    return other
