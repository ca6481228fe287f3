"""The experiments of the paper: what they train, how that is scored, and the table or figure that comes of it.

They are described in `systems.yaml`, with the paper's numbers.
"""

import csv
import itertools
import json
import os
import platform
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tensorflow as tf
import yaml
from pydantic import BaseModel, ConfigDict, Field

from dvpvae_tf import evaluation, training
from dvpvae_tf.config import load_config
from dvpvae_tf.files import write_atomically
from dvpvae_tf.models.loading import load_model

COLUMNS = {
    "data": "data",
    "system": "system",
    "parameters": "parameters",
    "nats": "iwae, nats",
    "bits_per_dim": "iwae, bits per dimension",
    "negative_elbo": "negative ELBO, T steps, nats",
    "continuous_time_negative_elbo": "negative ELBO, continuous time, nats",
    "published": "published estimate (not a bound), nats",
    "active_units": "active units",
    "epoch_seconds": "seconds an epoch",
    "memory_gb": "peak memory, GB",
    "sample_seconds": "seconds for 1,000 samples",
    "paper": "the paper",
}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Scale(_Part):
    """How large an experiment on one data set is run."""

    samples: int
    test_images: int | None = None
    train_images: int | None = None
    overrides: dict[str, Any] = {}


class Row(_Part):
    """One system on one data set, and what the paper says of it."""

    data: str
    system: str
    config: str
    overrides: dict[str, Any] = {}
    paper: dict[str, float | str] = {}


class Table(_Part):
    """A table of the paper."""

    title: str
    rows: Annotated[list[Row], Field(min_length=1)]
    vary: dict[str, dict[str, list[Any]]] = {}  # scale -> settings of the model: a row stands for one with each choice


class Figure(Table):
    """A figure of the paper, and the name of the function of `drawings` that draws it."""

    draw: str


class CostScale(_Part):
    """How carefully costs are measured, and on which settings."""

    timed_steps: int
    timed_images: int
    overrides: dict[str, dict[str, Any]] = {}


class CostTable(Table):
    """A table of the paper that compares costs."""

    scales: dict[str, CostScale]


class Experiments(_Part):
    """All that `systems.yaml` holds."""

    scales: dict[str, dict[str, Scale]]
    tables: dict[str, Table]
    figures: dict[str, Figure]
    plots: dict[str, Figure]
    costs: dict[str, CostTable]


def read_experiments():
    """Reads `systems.yaml`.

    Returns:
        `Experiments`.
    """
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    return Experiments.model_validate(yaml.safe_load(text))


def rows_of(experiment, scale_name):
    """The rows of a table or figure, one for each choice where it varies settings.

    Args:
        experiment: `Table`, `Figure` or `CostTable`.
        scale_name: str.

    Returns:
        list of `Row`.
    """
    vary = experiment.vary.get(scale_name, {})
    choices = [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]
    return [_with_settings(row, choice) for row in experiment.rows for choice in choices]


def _with_settings(row, settings):
    """The row with these settings of the model; what its config has already is no change."""
    if not settings:
        return row
    model = load_config(row.config, row.overrides).model
    changes = {key: value for key, value in settings.items() if getattr(model, key) != value}
    overrides = _merge(row.overrides, {"model": changes} if changes else {})
    return row.model_copy(update={"system": ", ".join(map(str, settings.values())), "overrides": overrides})


def run_row(row, scale, scale_name, seed, images, folder, verbose="auto"):
    """Trains and scores one system with one seed, or takes up what an earlier call has left.

    Args:
        row: `Row`.
        scale: `Scale` of its data set.
        scale_name: str.
        seed: int.
        images: uint8 arrays `[N, D, D, C]` of the training, validation and test split.
        folder: path, in which each run has a folder of its own.
        verbose: as in `keras.Model.fit`.

    Returns:
        dict of numbers, nats unless the name says otherwise; they are in the run's `scores.json`, too.

    Raises:
        UserError: for a mistake that the user can put right.
    """
    config = row_config(row, scale.overrides, seed, folder)
    scores = Path(config.output) / config.name / "scores.json"
    if scores.exists():
        return json.loads(scores.read_text())
    train, validation, test = images
    train, validation = train[: scale.train_images], validation[: scale.train_images]
    training.train(config, (train, validation, test[: scale.test_images]), verbose=verbose)
    results = _score(load_model(scores.parent), test[: scale.test_images], scale.samples, seed, verbose)
    steps = len(train) // config.batch_size * config.epochs
    results |= {"seed": seed, "scale": scale_name, "steps": steps, "images_seen": steps * config.batch_size}
    write_atomically(scores, lambda path: path.write_text(json.dumps(results, indent=2) + "\n"))
    return results


def row_config(row, overrides, seed, folder):
    """The settings of one run; systems that tables share are one run.

    Args:
        row: `Row`.
        overrides: dict, the changes of the scale; those of the row win.
        seed: int.
        folder: path of all runs.

    Returns:
        `dvpvae_tf.config.TrainConfig`.
    """
    settings = {"seed": seed, "name": run_name(row, seed), "output": str(folder)}
    return load_config(row.config, _merge(_merge(overrides, row.overrides), settings))


def run_name(row, seed):
    """The name of a run's folder.

    Args:
        row: `Row`.
        seed: int.

    Returns:
        str, such as "mnist_channels_64_seed1".
    """
    changes = (f"{key.rpartition('.')[2]}_{value}" for key, value in _flatten(row.overrides).items())
    return "_".join([row.config, *changes, f"seed{seed}"])


def _flatten(settings, prefix=""):
    flat = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def as_text(settings):
    """Settings in a line.

    Args:
        settings: dict, nested as in a config.

    Returns:
        str, such as "batch_size 16, model.channels 8".
    """
    return ", ".join(f"{key} {value}" for key, value in _flatten(settings).items())


def _merge(base, changes):
    both = {key: _merge(base[key], value) for key, value in changes.items() if isinstance(base.get(key), dict)}
    return base | changes | both


def _score(model, images, samples, seed, verbose):
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


def summarise(row, results):
    """The row of a table: means over the seeds, with standard deviations where there are several.

    Args:
        row: `Row`.
        results: list of what `run_row` gives for each seed.

    Returns:
        dict from the keys of `COLUMNS` to str.
    """
    cells = {"data": row.data, "system": row.system, "paper": _of_paper(row.paper)}
    for key in COLUMNS:
        values = [result[key] for result in results if key in result]
        if key not in cells and values:
            cells[key] = _mean_and_deviation(key, values)
    return {key: cells.get(key, "") for key in COLUMNS}


def _of_paper(numbers):
    units = {
        "nats": "{:.2f} nats",
        "bits_per_dim": "{:.2f} bits per dimension",
        "active_units": "{:.1%} active",
        "epoch_seconds": "{:.0f} s an epoch",
        "memory_gb": "{:.0f} GB",
        "sample_seconds": "{:.1f} s for 1,000 samples",
    }
    parts = [pattern.format(numbers[key]) for key, pattern in units.items() if key in numbers]
    if "deviation" in numbers:
        parts[0] += f" ({numbers['deviation']:.2f})"
    if "parameters" in numbers:
        parts.append(f"{numbers['parameters']} parameters")
    return ", ".join(parts)


def _mean_and_deviation(key, values):
    pattern = {"parameters": "{:,.0f}", "active_units": "{:.1%}", "bits_per_dim": "{:.4f}"}.get(key, "{:.2f}")
    mean = pattern.format(np.mean(values))
    if len(values) == 1 or key == "parameters":
        return mean
    return f"{mean} ({pattern.format(np.std(values, ddof=1))})"


def write_table(path, title, rows, notes):
    """Writes a table as Markdown, CSV and JSON.

    Args:
        path: path without suffix.
        title: str.
        rows: list of dicts, see `summarise`.
        notes: list of str, printed below the Markdown table.

    Raises:
        UserError: if it cannot be written.
    """
    shown = {key: name for key, name in COLUMNS.items() if any(row[key] for row in rows)}
    lines = [list(shown.values()), ["---"] * len(shown), *([row[key] for key in shown] for row in rows)]
    markdown = [f"# {title}", "", *(f"| {' | '.join(line)} |" for line in lines), "", *notes]
    texts = {
        ".md": "\n".join(markdown) + "\n",
        ".json": json.dumps({"title": title, "rows": rows, "notes": notes}, indent=2),
    }
    for suffix, text in texts.items():
        write_atomically(path.with_suffix(suffix), lambda temporary, text=text: temporary.write_text(text))
    write_atomically(path.with_suffix(".csv"), lambda temporary: _write_csv(temporary, shown, rows))


def _write_csv(path, shown, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([list(shown.values()), *([row[key] for key in shown] for row in rows)])


def hardware():
    """What the numbers were measured on.

    Returns:
        str, such as "x86_64, 2 cores, no GPU".
    """
    gpus = tf.config.list_physical_devices("GPU")
    return f"{platform.machine()}, {os.cpu_count()} cores, {f'{len(gpus)} GPUs' if gpus else 'no GPU'}"
