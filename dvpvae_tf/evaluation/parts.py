"""Results of an evaluation, of all images or of one shard, and how shards are saved and merged."""

import dataclasses
import functools
import json
from typing import NamedTuple

import numpy as np

from dvpvae_tf.distribute.sharding import check_of_one_job
from dvpvae_tf.errors import UserError
from dvpvae_tf.evaluation.layer_statistics import LayerSums
from dvpvae_tf.evaluation.results import Evaluation, concatenate


class Part(NamedTuple):
    """The evaluation of a run of images: all of them, or those of a shard, which `merge_parts` puts together.

    `settings` is a dict of all that the parts of one evaluation must have in common.
    """

    evaluation: Evaluation
    layers: LayerSums
    settings: dict

    def results(self):
        """Gives the results as plain numbers.

        Returns:
            dict that JSON can hold: `Evaluation.summary`, and beside it "active_units", "active_units_per_layer",
            "model", "dataset", "split" and "mixed_precision".
        """
        summary, statistics = self.evaluation.summary(), self.layers.statistics()
        layers = list(summary["kl_z_per_layer"])
        names = ("model", "dataset", "split", "mixed_precision")
        return summary | {
            "active_units": statistics.all_active_units,
            "active_units_per_layer": dict(zip(layers, statistics.active_units.tolist(), strict=True)),
            **{name: self.settings[name] for name in names},
        }


def output_of_parts(output):
    """Names the file that the parts of an evaluation would make up, beside the results; no sample is written there.

    Args:
        output: path of the results.

    Returns:
        Path, such as `results-evaluation.npz` of `results.json`, whose parts are those that `sharding.Shard` names.
    """
    return output.with_name(f"{output.stem}-evaluation.npz")


def save_part(path, part):
    """Writes the evaluation of a shard.

    Args:
        path: path of a new file.
        part: `Part`.
    """
    values = dataclasses.asdict(part.evaluation)
    values |= {f"kl_u_{name}": array for name, array in values.pop("kl_u").items()}
    arrays = {name: values.pop(name) for name in list(values) if isinstance(values[name], np.ndarray)}
    layers = {f"layers_{name}": value for name, value in part.layers._asdict().items()}
    np.savez(path, settings=json.dumps([part.settings, values]), **arrays, **layers)


def load_part(path):
    """Reads what `save_part` has written.

    Args:
        path: path of the file.

    Returns:
        `Part`.

    Raises:
        UserError: if it is something else.
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


def merge_parts(parts):
    """Puts the evaluations of all shards together.

    Args:
        parts: list of `Part`, in the order of the shards.

    Returns:
        `Part`.

    Raises:
        UserError: if they are not of one evaluation.
    """

    def settings_of(part):
        names = ("estimator", "seed", "bits_per_nat")
        return part.settings | {name: getattr(part.evaluation, name) for name in names}

    check_of_one_job([*map(settings_of, parts)])
    evaluations, layers, settings = zip(*parts, strict=True)
    return Part(concatenate(evaluations), functools.reduce(LayerSums.plus, layers), settings[0])
