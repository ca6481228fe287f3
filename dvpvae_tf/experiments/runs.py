"""Trains and scores the systems that an experiment compares."""

import json
import os
import platform
from pathlib import Path

import numpy as np
import tensorflow as tf

from dvpvae_tf import DVPVAE, evaluation, training
from dvpvae_tf.data.pipelines import Splits
from dvpvae_tf.distribute.sharding import fingerprint
from dvpvae_tf.errors import UserError
from dvpvae_tf.evaluation.results import Evaluation
from dvpvae_tf.experiments.descriptions import Row, Scale, row_config
from dvpvae_tf.files import read_csv, write_csv, write_json
from dvpvae_tf.models.loading import load_model
from dvpvae_tf.models.refit import with_full_mixture

SCORES = "scores.json"
TEST_BOUNDS = "test_bounds.csv"
TEST_BOUNDS_COLUMNS = ("nats", "negative_elbo", "reconstruction", "kl_z", "kl_u")


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
        The scores, in nats unless the name says otherwise. They are in the run's `scores.json` too, and the bounds of
        each test image in its `test_bounds.csv`.

    Raises:
        UserError: for a mistake that the user can put right, such as a folder with the scores of other images.
    """
    config = row_config(row, scale.overrides, seed, folder)
    run = Path(config.output) / str(config.name)
    path, bounds = run / _file_of(row, SCORES), run / _file_of(row, TEST_BOUNDS)
    train, validation, test = (part[:size] for part, size in zip(images, scale.sizes, strict=True))
    of_images = fingerprint([train, validation, test])
    # Of the row, and of one that shares its run.
    scored = [file for file in dict.fromkeys((path, run / SCORES)) if file.exists()]
    for file in scored:
        results = json.loads(file.read_text(encoding="utf-8"))
        if results.get("images", of_images) != of_images:  # earlier versions did not note them
            raise UserError(f"{run} has the scores of other images: give another --output, or remove that folder")
        if file == path and bounds.exists():
            return results
    if not row.full_mixture or not scored:  # the row without the mixture may have trained the model
        training.train(config, (train, validation, test), verbose=verbose)
    model, verbose = load_model(run), int(verbose != 0)
    if row.full_mixture:
        model = with_full_mixture(model, train, validation, seed, verbose)
    results = _score(model, test, scale, seed, verbose, bounds)
    steps = len(train) // config.batch_size * config.epochs
    results |= {"seed": seed, "scale": scale_name, "steps": steps, "images_seen": steps * config.batch_size}
    results["images"] = of_images
    write_json(path, results)
    return results


def _file_of(row: Row, name: str) -> str:
    """A row with a mixture in place of the trained prior shares its run with the row without one."""
    return f"full_mixture_{name}" if row.full_mixture else name


def read_test_bounds(row: Row, folder: Path) -> dict[str, np.ndarray]:
    """Reads the bounds of each test image that `run_row` wrote.

    Args:
        row: the system.
        folder: its run folder.

    Returns:
        dict of `[N]` by `TEST_BOUNDS_COLUMNS`, in nats: "nats" (`iwae`), "negative_elbo" and its terms.
    """
    rows = read_csv(folder / _file_of(row, TEST_BOUNDS))
    return {name: np.array([float(line[name]) for line in rows]) for name in TEST_BOUNDS_COLUMNS}


def _write_test_bounds(path: Path, bound: Evaluation) -> None:
    """Writes the bounds and their terms, a line for each test image, in nats."""
    columns = (bound.estimates, bound.negative_elbo, bound.reconstruction, bound.kl_z.sum(axis=1), bound.total_kl_u)
    lines = np.round(columns, 4).T.tolist()
    write_csv(path, [dict(zip(TEST_BOUNDS_COLUMNS, line, strict=True)) for line in lines])


def _score(
    model: DVPVAE, images: np.ndarray, scale: Scale, seed: int, verbose: int, bounds: Path
) -> dict[str, float | str]:
    """The scores of a model. The scores of each image are written to `bounds`."""
    evaluated = evaluation.iwae(model, images, scale.samples, seed=seed, verbose=verbose)
    _write_test_bounds(bounds, evaluated)
    bound = evaluated.summary()
    few = images[: scale.published_images]
    published = evaluation.published(model, few, scale.samples, seed=seed, verbose=verbose).summary()
    means = {key: bound[key]["mean"] for key in bound if isinstance(bound[key], dict) and "mean" in bound[key]}
    return means | {
        "nats_standard_error": bound["nats"]["standard_error"],
        "published": published["nats"]["mean"],
        "active_units": evaluation.layer_statistics(model, images, seed).all_active_units,
        "parameters": model.num_parameters,
        "estimator": bound["estimator"],
        "test_images": len(images),
        "published_images": len(few),
    }


def hardware() -> str:
    """Describes what the numbers were measured on.

    Returns:
        A phrase, such as "x86_64, 2 cores, no GPU".
    """
    gpus = tf.config.list_physical_devices("GPU")
    return f"{platform.machine()}, {os.cpu_count()} cores, {f'{len(gpus)} GPUs' if gpus else 'no GPU'}"
