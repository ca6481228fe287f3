"""The result of an evaluation, of all images or of one shard; shards are saved and merged here."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dvpvae_tf.distribute.sharding import check_same_job
from dvpvae_tf.errors import UserError
from dvpvae_tf.evaluation.layer_statistics import LayerSums
from dvpvae_tf.evaluation.results import Evaluation, concatenate


class Part(NamedTuple):
    """The evaluation of consecutive images: of all images, or of one shard.

    Attributes:
        evaluation: the bound and its terms.
        layers: sums for the statistics of the layers.
        settings: what all shards of one evaluation must have in common.
    """

    evaluation: Evaluation
    layers: LayerSums
    settings: dict[str, Any]

    def results(self) -> dict[str, Any]:
        """Computes the results for people and files.

        Returns:
            A dict that JSON can hold: `Evaluation.summary`, and "active_units", "active_units_per_layer", "model",
            "dataset", "split" and "mixed_precision".
        """
        summary, statistics = self.evaluation.summary(), self.layers.statistics()
        layers = list(summary["kl_z_per_layer"])
        names = ("model", "dataset", "split", "mixed_precision")
        return summary | {
            "active_units": statistics.all_active_units,
            "active_units_per_layer": dict(zip(layers, statistics.active_units.tolist(), strict=True)),
            **{name: self.settings[name] for name in names},
        }


def output_of_parts(output: Path) -> Path:
    """Names the file whose parts the shards write, see `Shard.part_of`.

    The name differs from `--output`, so that the parts of an evaluation and of sampling are never mixed up.

    Args:
        output: path of the results, such as `results.json`.

    Returns:
        A path beside it, such as `results-evaluation.npz`.
    """
    return output.with_name(f"{output.stem}-evaluation.npz")


def save_part(path: Path, part: Part) -> None:
    """Writes the evaluation of a shard.

    Args:
        path: the `.npz` file to write.
        part: the evaluation.
    """
    values = dataclasses.asdict(part.evaluation)
    values |= {f"kl_u_{name}": array for name, array in values.pop("kl_u").items()}
    arrays = {name: values.pop(name) for name in list(values) if isinstance(values[name], np.ndarray)}
    layers = {f"layers_{name}": value for name, value in part.layers._asdict().items()}
    np.savez(path, settings=json.dumps([part.settings, values]), **arrays, **layers)


def load_part(path: Path) -> Part:
    """Reads a file that `save_part` has written.

    Args:
        path: the `.npz` file.

    Returns:
        The evaluation.

    Raises:
        UserError: if the file is damaged or something else.
    """
    try:
        with np.load(path) as file:
            values = dict(file)
        settings, numbers = json.loads(str(values.pop("settings")))
        layers = {name: values.pop(f"layers_{name}") for name in LayerSums._fields}
        kl_u = {name.removeprefix("kl_u_"): values.pop(name) for name in list(values) if name.startswith("kl_u_")}
        result = Evaluation(**numbers, **values, kl_u=kl_u)
    except Exception as error:  # zipfile, zlib, NumPy and JSON raise many types for a damaged or foreign file
        raise UserError(f"{path} is damaged, or no part of an evaluation ({error})") from error
    return Part(result, LayerSums(**layers), settings)


def merge_parts(parts: Sequence[Part]) -> Part:
    """Joins the evaluations of all shards.

    Args:
        parts: the evaluations, in the order of the shards.

    Returns:
        The evaluation of all images.

    Raises:
        UserError: if they do not belong to one evaluation.
    """

    def settings_of(part: Part) -> dict[str, Any]:
        names = ("estimator", "seed", "bits_per_nat")
        return part.settings | {name: getattr(part.evaluation, name) for name in names}

    check_same_job([*map(settings_of, parts)])
    evaluations, layers, settings = zip(*parts, strict=True)
    return Part(concatenate(evaluations), functools.reduce(LayerSums.plus, layers), settings[0])
