"""The files that samples are written to: a grid to look at, arrays, or a folder of images."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dvpvae_tf import pictures
from dvpvae_tf.errors import UserError

COLUMNS = 16
JOB_FILE = "sampling.json"


def writer_of(output: Path, first: int = 0) -> Callable:
    """Chooses the function that writes samples to an output.

    Args:
        output: the path; ".png" for a grid, ".npz" for arrays, "" for a folder of images.
        first: index of the first, which names the images of a folder.

    Returns:
        Function of a path and an iterable of `Samples`, float in [0, 1] or uint8. For a part of a job it takes the dict
        of the job's settings too, and writes it beside the samples. The path may be another than `output`, see
        `dvpvae_tf.files.write_atomically`.
    """
    write_folder = functools.partial(_write_folder, first=first)
    writers: dict[str, Callable] = {".png": _write_grid, ".npz": _write_arrays, "": write_folder}
    return writers[output.suffix]


def _collect(batches):
    """Concatenates batches to the arguments of `pictures.rows_of_samples`: images, and pseudoinputs if any."""
    parts = [[pictures.to_uint8(part) for part in batch if part is not None] for batch in batches]
    return dict(zip(("images", "pseudoinputs"), map(np.concatenate, zip(*parts, strict=True)), strict=False))


def _write_grid(path, batches):
    samples = _collect(batches)
    pictures.save(path, pictures.rows_of_samples(**samples, columns=min(COLUMNS, len(samples["images"]))))


def _write_arrays(path, batches, job=None):
    kept: dict[str, Any] = {} if job is None else {"sampling": json.dumps(job)}
    np.savez(path, **_collect(batches), **kept)


def _write_folder(path, batches, job=None, *, first):
    path.mkdir()
    if job is not None:
        (path / JOB_FILE).write_text(json.dumps(job))
    for index, image in enumerate((image for batch in batches for image in pictures.to_uint8(batch.images)), first):
        keras.utils.save_img(path / f"{index:06}.png", image, data_format="channels_last", scale=False)


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Reads a part of a job that is an `.npz` file.

    Args:
        path: the file.

    Returns:
        Its arrays by name, and the settings of the job.

    Raises:
        UserError: if it is something else.
    """
    try:
        with np.load(path) as file:
            arrays = dict(file)
        return arrays, json.loads(str(arrays.pop("sampling")))
    except Exception as error:  # zipfile, zlib, NumPy and JSON raise many types for a damaged or foreign file
        raise UserError(f"{path} is damaged, or no part of sampling ({error})") from error


def job_of_folder(path: Path) -> dict:
    """Reads the settings of the job that a folder of images is a part of.

    Args:
        path: the folder.

    Returns:
        The settings.

    Raises:
        UserError: if it is something else.
    """
    try:
        return json.loads((path / JOB_FILE).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no part of sampling ({error})") from error
