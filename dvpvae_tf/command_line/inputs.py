"""Loads the model and the images that the parsed options of a command name.

It imports TensorFlow, so a command imports it once `dvpvae_tf.command_line.options` has parsed the options.
"""

import argparse
from typing import Any

import numpy as np

from dvpvae_tf.command_line.options import SPLITS
from dvpvae_tf.config.datasets import NAMED_DATASETS, check_options, find_reader
from dvpvae_tf.config.settings import SOURCE_SETTINGS, DataConfig
from dvpvae_tf.data.folder import MODES, check_folder, find_splits
from dvpvae_tf.data.pipelines import LoadedDataset, read_dataset
from dvpvae_tf.errors import UserError
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.models.loading import load_model
from dvpvae_tf.models.model_folder import is_model_folder_or_name, model_metadata
from dvpvae_tf.models.refit import with_ancestral_process
from dvpvae_tf.training.run_folder import count_trained_on, run_config

DEFAULT_SPLIT = "test"


def model_of(arguments: argparse.Namespace) -> DVPVAE:
    """Loads the model that the arguments name.

    Args:
        arguments: parsed options of `options.add_model_arguments`.

    Returns:
        The model. Without `--mixed-precision` or `--no-mixed-precision` it computes as it was trained.

    Raises:
        UserError: if there is no such model, or its file is damaged.
    """
    dtypes = {True: "mixed_bfloat16", False: "float32", None: None}
    return load_model(arguments.model, dtypes[arguments.mixed_precision])


def model_with_process_of(arguments: argparse.Namespace, ancestral: bool = False) -> DVPVAE:
    """Loads the model that the arguments name. Its diffusion prior gets the process that they name.

    Prints a line if the prior is not calibrated, unless the ancestral process is asked for.

    Args:
        arguments: parsed options of `add_model_arguments` and `add_process_arguments` in `options`.
        ancestral: takes the ancestral process even where the arguments do not ask for it.

    Returns:
        The model, see `model_of`.

    Raises:
        UserError: if there is no such model, an option is for diffusion priors and it has none, or its calibrated
            process does not take so many steps.
    """
    model = model_of(arguments)
    for option in ("steps", "ancestral"):
        if getattr(arguments, option) and not model.has_steps:
            raise UserError(
                f"--{option} is for models with a diffusion prior, and {arguments.model} has none: leave it out"
            )
    if arguments.ancestral or ancestral:
        return with_ancestral_process(model)
    model.check_steps(arguments.steps)
    if model.process_name == "ancestral":
        print(
            "The diffusion prior is not calibrated: python -m dvpvae_tf.fit_prior --prior calibrated gives it better "
            "steps, and fewer"
        )
    return model


def data_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Collects the settings of the data: the options, and the settings of the run for options that are left out.

    Args:
        arguments: parsed options of `options.add_model_arguments` and `add_data_arguments`.

    Returns:
        The arguments of `dvpvae_tf.data.pipelines.read_dataset`. A folder of another name than the run's is used whole,
        unless a split is asked for.

    Raises:
        UserError: if neither names a data set, or it does not take an option.
    """
    given = {key: getattr(arguments, key) for key in SOURCE_SETTINGS}
    given = {key: value for key, value in given.items() if value is not None}
    config = run_config(arguments.model)
    trained_on = trained_on_data(arguments.model)
    name = trained_on if arguments.dataset is None else DataConfig.strip_slash(arguments.dataset)
    if name is None:
        raise UserError(f"{arguments.model} does not say what data it was trained on: give --dataset")
    check_options(name, given)
    if config is not None and name == config.dataset:
        return config.source | given
    return {"name": name, "whole": name != trained_on and getattr(arguments, "split", None) is None, **given}


def trained_on_data(model: str) -> str | None:
    """Finds out what data a model was trained on.

    Args:
        model: the option `--model`.

    Returns:
        The data set that a run or a model folder names, or None.
    """
    config = run_config(model)
    if config is not None:
        return config.dataset
    return model_metadata(model).get("dataset") if is_model_folder_or_name(model) else None


def split_name(arguments: argparse.Namespace) -> str:
    """Names the split that the arguments choose.

    Args:
        arguments: parsed options of `options.add_model_arguments` and `add_data_arguments`.

    Returns:
        One of `SPLITS`, or "all" for a folder that is used whole.

    Raises:
        UserError: see `data_settings`; or if the folder cannot be read.
    """
    settings = data_settings(arguments)
    reader, place = find_reader(settings["name"])
    if not settings.get("whole") or reader != "folder" or find_splits(check_folder(place)):
        return arguments.split or DEFAULT_SPLIT
    return "all"


def read_split_of(
    arguments: argparse.Namespace, model: DVPVAE, data: LoadedDataset | None = None
) -> tuple[np.ndarray, list[str] | None]:
    """Reads the images that the arguments name, at the size of the model where they name none.

    Args:
        arguments: parsed options of `options.add_model_arguments` and `add_data_arguments`.
        model: the model that they are for.
        data: their data set where it was read already.

    Returns:
        uint8 array `[N, D, D, C]` of the split; and the paths of its files in their folder, None for a data set that is
        no folder.

    Raises:
        UserError: if they cannot be read or do not fit the model, or the split has moved since the model was trained,
            so that it holds images that the model was trained on.
    """
    split = split_name(arguments)
    if split == "all":  # each split of such a folder is all of it
        split = DEFAULT_SPLIT
        if trained_on_data(arguments.model) is None:
            print(
                f"{arguments.model} does not say what it was trained on. If it was this folder, --split test takes "
                "the images that were held out",
                flush=True,
            )
    return split_of(dataset_of(arguments, model, split, data=data), split)


def split_of(data: LoadedDataset, split: str) -> tuple[np.ndarray, list[str] | None]:
    """Gives one split of a data set.

    Args:
        data: the data set.
        split: its name.

    Returns:
        Its images, and the paths of their files in their folder; None for a data set that is no folder.
    """
    index = SPLITS.index(split)
    return data.images[index], data.files and data.files[index]


def dataset_of(
    arguments: argparse.Namespace,
    model: DVPVAE,
    *splits: str,
    labels: bool = False,
    to_fit: bool = False,
    data: LoadedDataset | None = None,
) -> LoadedDataset:
    """Reads the data set that the arguments name, and checks that it fits the model; a folder is made to fit.

    Args:
        arguments: parsed options of `add_model_arguments` and `add_dataset_arguments` in `options`.
        model: the model that it is for.
        *splits: names of the splits that are used.
        labels: reads the labels, too.
        to_fit: whether something is fitted to it: then a folder is split, also where the model knows another one.
        data: this data set where it was read already; its splits are checked.

    Returns:
        `LoadedDataset`.

    Raises:
        UserError: if it cannot be read or does not fit the model, or a split that is used holds images that the model
            was trained on.
    """
    settings = data_settings(arguments) | ({"whole": False} if to_fit else {})
    if settings["name"] not in NAMED_DATASETS and settings.get("image_size") is None:
        settings["image_size"] = model.image_shape[0]
    if find_reader(settings["name"])[0] == "folder" and model.image_shape[-1] in MODES:
        settings["image_channels"] = model.image_shape[-1]
    data = data or read_dataset(**settings, labels=labels)
    for split in splits:
        _check(split_of(data, split)[0], split, arguments, model, settings["name"])
    return data


def _check(images: np.ndarray, split: str, arguments: argparse.Namespace, model: DVPVAE, name: str) -> None:
    """Checks that the images of a split fit the model, and that the model was not trained on them."""
    if images.shape[1:] != model.image_shape:
        sizes = [" x ".join(map(str, shape)) for shape in (images.shape[1:], model.image_shape)]
        raise UserError(f"{name} has images of {sizes[0]} but the model is for {sizes[1]}: give another --dataset")
    of_run = split != "train" and not is_model_folder_or_name(arguments.model)
    seen = count_trained_on(arguments.model, split, images) if of_run else 0
    if seen:
        raise UserError(
            f"{arguments.model} was trained on {seen} of the {len(images)} {split} images of "
            f"{name}: files were added or removed since then; put them back, or give another --dataset"
        )
