"""A model as a folder of `config.json`, `metadata.json` and `model.weights.h5`, laid out as a preset of KerasHub.

The trained models that come with the library are such folders, in `dvpvae_tf/trained_models/`.
"""

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from dvpvae_tf.errors import UserError, did_you_mean, first_line
from dvpvae_tf.files import write_atomically, write_json

CONFIG_FILE = "config.json"
METADATA_FILE = "metadata.json"
WEIGHTS_FILE = "model.weights.h5"


def trained_models() -> list[str]:
    """Lists the trained models that come with the library.

    Returns:
        Their names, sorted.
    """
    return sorted(path.parent.name for path in _trained_folder().glob(f"*/{METADATA_FILE}"))


def find_model_folder(name_or_folder: str | Path) -> Path:
    """Finds the folder of a trained model.

    Args:
        name_or_folder: the name of a model that comes with the library, such as "mnist", or a folder that
            `save_model_folder` has written.

    Returns:
        Path of the folder.

    Raises:
        UserError: if there is no such model.
    """
    for folder in (Path(name_or_folder).expanduser(), _trained_folder() / name_or_folder):
        if (folder / CONFIG_FILE).is_file():
            return folder
    names = trained_models()
    raise UserError(
        f"there is no trained model named '{name_or_folder}'{did_you_mean(str(name_or_folder), names)}: "
        f"give one of {', '.join(names)}, or a model folder"
    )


def save_model_folder(model: keras.Model, folder: str | Path, **metadata: Any) -> None:
    """Saves a model as a folder, whole or not at all. The optimizer's state is left out.

    Args:
        model: a built `DVPVAE`.
        folder: the folder to write: a new one, or an older model folder that is replaced.
        **metadata: what else `metadata.json` says of the model, such as `dataset` and `epochs`; JSON values.

    Raises:
        UserError: if something else is in that place, or it cannot be written.
    """
    folder = Path(folder).expanduser()
    if folder.exists() and not (folder / CONFIG_FILE).is_file():
        raise UserError(f"{folder} exists and holds no model: give the name of a new folder")
    uncompiled = type(model).from_config(model.get_config())
    uncompiled.set_weights(model.get_weights())

    def write(temporary: Path) -> None:
        temporary.mkdir()
        uncompiled.save_weights(temporary / WEIGHTS_FILE)
        write_json(temporary / CONFIG_FILE, keras.saving.serialize_keras_object(uncompiled))
        write_json(temporary / METADATA_FILE, _metadata(uncompiled, temporary / WEIGHTS_FILE) | metadata)

    folder.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(folder, write, replace_folder=True)


def is_model_folder_or_name(name_or_folder: str | Path) -> bool:
    """Checks whether `load_model_folder` would find a model.

    Args:
        name_or_folder: the name of a model that comes with the library, or a folder.

    Returns:
        Whether it is one.
    """
    is_run = (Path(name_or_folder) / "config.yaml").is_file()  # a folder of a training, which may have such a name
    return is_model_folder(name_or_folder) or (str(name_or_folder) in trained_models() and not is_run)


def is_model_folder(path: str | Path) -> bool:
    """Checks whether a path is a model folder.

    Args:
        path: any path.

    Returns:
        Whether it is one.
    """
    return (Path(path).expanduser() / CONFIG_FILE).is_file()


def load_model_folder(name_or_folder: str | Path, load_weights: bool = True, **settings: Any) -> keras.Model:
    """Loads a model that `save_model_folder` has saved.

    Args:
        name_or_folder: the name of a model that comes with the library, such as "mnist", or a folder.
        load_weights: whether to load its weights; otherwise the model has starting weights, and its diffusion prior is
            not calibrated.
        **settings: arguments of the model's constructor to change, such as `seed` or `dtype`.

    Returns:
        A built `DVPVAE`.

    Raises:
        UserError: if there is no such model, one of its files is missing or damaged, the weights are not those that its
            metadata name, the settings do not fit, or a prior has no starting weights, as it is fitted to trained ones.
    """
    folder = find_model_folder(name_or_folder)
    serialized = _read_json(folder / CONFIG_FILE)
    try:
        config = changed_config(serialized["config"], settings)
        serialized["config"] = config if load_weights else _without_calibration(config)
        model = keras.saving.deserialize_keras_object(serialized)
    except Exception as error:  # Keras raises many types for a config that it does not understand
        changes = f", with {', '.join(settings)} changed," if settings else ""
        raise UserError(
            f"{folder / CONFIG_FILE}{changes} describes no model of this library ({first_line(error)})"
        ) from error
    if not load_weights and getattr(model, "prior", None) is not None and not model.prior.fitted:
        raise UserError(
            f"{name_or_folder} has a mixture that was fitted to trained weights, so it has no starting weights: give "
            "load_weights=True, or the name of a preset"
        )
    if not isinstance(model, keras.Model):
        raise UserError(f"{folder / CONFIG_FILE} describes no model of this library: copy the folder again")
    if load_weights:
        _load_weights(model, folder)
    return model


def changed_config(config: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Changes settings of a model's config; the prior computes in the model's dtype.

    Args:
        config: what `DVPVAE.get_config` returns.
        settings: arguments of the constructor to change.

    Returns:
        A new config.
    """
    changed = {**config, **settings}
    if "dtype" in settings and changed["prior"] is not None:
        prior = changed["prior"]
        changed["prior"] = {**prior, "config": {**prior["config"], "dtype": settings["dtype"]}}
    return changed


def _without_calibration(config: dict[str, Any]) -> dict[str, Any]:
    """The config of the model before its diffusion prior was calibrated: the tables come with the trained weights."""
    prior = config["prior"]
    if prior is None or "calibrated_steps" not in prior["config"]:
        return config
    return {**config, "prior": {**prior, "config": {**prior["config"], "calibrated_steps": None}}}


def model_metadata(name_or_folder: str | Path) -> dict[str, Any]:
    """Reads what is known of a model: versions, number of parameters, data, epochs, measured bound.

    Args:
        name_or_folder: the name of a model that comes with the library, or a folder.

    Returns:
        What its `metadata.json` holds.

    Raises:
        UserError: if there is no such model, or the file is damaged.
    """
    return _read_json(find_model_folder(name_or_folder) / METADATA_FILE)


def _load_weights(model: keras.Model, folder: Path) -> None:
    file = folder / WEIGHTS_FILE
    if not file.is_file():
        raise UserError(f"{file} is missing: copy the whole folder")
    metadata = _read_json(folder / METADATA_FILE)
    if _sha256(file) != metadata.get("weights_sha256"):
        raise UserError(f"{file} is not the file that {METADATA_FILE} names (its SHA-256 differs): copy it again")
    if model.num_parameters != metadata.get("parameter_count"):  # Keras would load what fits and warn of the rest
        raise UserError(
            f"{file} does not fit the model in {CONFIG_FILE}: it has {metadata.get('parameter_count')} parameters, "
            f"the model {model.num_parameters}"
        )
    try:
        model.load_weights(file)
    except ValueError as error:
        raise UserError(f"{file} does not fit the model in {CONFIG_FILE} ({first_line(error)})") from error


def _metadata(model: keras.Model, weights: Path) -> dict[str, Any]:
    from dvpvae_tf import __version__

    return {
        "keras_version": keras.__version__,
        "tensorflow_version": tf.__version__,
        "dvpvae_tf_version": __version__,
        "parameter_count": model.num_parameters,
        "date_saved": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d@%H:%M:%S"),
        "weights_sha256": _sha256(weights),
    }


def _trained_folder() -> Path:
    return Path(__file__).parents[1] / "trained_models"


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file} is missing: copy the whole folder") from None
    except ValueError as error:
        raise UserError(f"{file} is no valid JSON ({error}): copy it again") from error
