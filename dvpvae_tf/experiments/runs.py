"""Trains and scores the systems that an experiment compares."""

import json
import os
import platform
from pathlib import Path

import numpy as np
import tensorflow as tf

from dvpvae_tf import DVPVAE, evaluation, training
from dvpvae_tf.experiments.descriptions import Row, Scale, row_config
from dvpvae_tf.files import write_atomically
from dvpvae_tf.models.loading import load_model

Splits = tuple[np.ndarray, np.ndarray, np.ndarray]


def run_row(
    row: Row, scale: Scale, scale_name: str, seed: int, images: Splits, folder: Path, verbose: str | int = "auto"
) -> dict[str, float | str]:
    """Trains and scores one system with one seed, or goes on where an earlier call stopped.

    Args:
        row: the system and its data set.
        scale: how large its run is.
        scale_name: the name of the scale.
        seed: the seed of the run.
        images: uint8 arrays `[N, D, D, C]` of the training, validation and test split.
        folder: the folder that holds a folder for each run.
        verbose: as in `keras.Model.fit`.

    Returns:
        The scores, in nats unless the name says otherwise. They are in the run's `scores.json`, too.

    Raises:
        UserError: for a mistake that the user can put right.
    """
    config = row_config(row, scale.overrides, seed, folder)
    scores = Path(config.output) / str(config.name) / "scores.json"
    if scores.exists():
        return json.loads(scores.read_text(encoding="utf-8"))
    train, validation, test = images
    train, validation = train[: scale.train_images], validation[: scale.train_images]
    training.train(config, (train, validation, test[: scale.test_images]), verbose=verbose)
    results = _score(load_model(scores.parent), test[: scale.test_images], scale.samples, seed, verbose)
    steps = len(train) // config.batch_size * config.epochs
    results |= {"seed": seed, "scale": scale_name, "steps": steps, "images_seen": steps * config.batch_size}
    write_atomically(scores, lambda path: path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8"))
    return results


def _score(model: DVPVAE, images: np.ndarray, samples: int, seed: int, verbose: str | int) -> dict[str, float | str]:
    verbose = int(verbose != 0)
    bound = evaluation.iwae(model, images, samples, seed=seed, verbose=verbose).summary()
    published = evaluation.published(model, images, samples, seed=seed, verbose=verbose).summary()
    means = {key: bound[key]["mean"] for key in bound if isinstance(bound[key], dict) and "mean" in bound[key]}
    return means | {
        "nats_standard_error": bound["nats"]["standard_error"],
        "published": published["nats"]["mean"],
        "active_units": evaluation.layer_statistics(model, images, seed).all_active_units,
        "parameters": model.num_parameters,
        "estimator": bound["estimator"],
        "test_images": len(images),
    }


def hardware() -> str:
    """Describes what the numbers were measured on.

    Returns:
        A phrase, such as "x86_64, 2 cores, no GPU".
    """
    gpus = tf.config.list_physical_devices("GPU")
    return f"{platform.machine()}, {os.cpu_count()} cores, {f'{len(gpus)} GPUs' if gpus else 'no GPU'}"
