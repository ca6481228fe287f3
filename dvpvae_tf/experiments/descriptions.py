"""The experiments of the paper as `systems.yaml` describes them, with the paper's numbers."""

import itertools
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from dvpvae_tf.config import StrictSettings, TrainConfig, load_config, merge, read_yaml, validate


class Scale(StrictSettings):
    """The size of an experiment on one data set: K, and the most images; None for all.

    The published estimate, which takes T steps a draw, may be of the first `published_images` alone.
    """

    samples: int
    test_images: int | None = None
    published_images: int | None = None
    train_images: int | None = None
    overrides: dict[str, Any] = {}

    @property
    def sizes(self) -> tuple[int | None, int | None, int | None]:
        """The most images of the training, validation and test split; None for all."""
        return self.train_images, self.train_images, self.test_images


class Row(StrictSettings):
    """One system on one data set, and what the paper says of it.

    With `full_mixture` a mixture fitted to its r(u|x) takes the place of its prior, once it is trained and scored.
    """

    data: str
    system: str
    config: str
    overrides: dict[str, Any] = {}
    full_mixture: bool = False
    paper: dict[str, float | str] = {}


class Table(StrictSettings):
    """A table of the paper."""

    title: str
    rows: Annotated[list[Row], Field(min_length=1)]
    vary: dict[str, dict[str, list[Any]]] = {}  # scale -> settings of the model: a row stands for one with each choice


class Figure(Table):
    """A figure of the paper, and the name of the function of `dvpvae_tf.experiments.figures` that draws it."""

    draw: str


class CostScale(StrictSettings):
    """Settings and repetitions of a measurement of costs."""

    timed_steps: int
    timed_images: int
    overrides: dict[str, dict[str, Any]] = {}


class CostTable(Table):
    """A table of the paper that compares costs."""

    scales: dict[str, CostScale]


class Experiments(StrictSettings):
    """The content of `systems.yaml`."""

    scales: dict[str, dict[str, Scale]]
    tables: dict[str, Table]
    figures: dict[str, Figure]
    plots: dict[str, Figure]
    costs: dict[str, CostTable]

    def all(self) -> dict[str, Table]:
        """Returns all tables and figures by name."""
        return self.tables | self.figures | self.plots | self.costs


def read_experiments() -> Experiments:
    """Reads `systems.yaml`.

    Returns:
        The experiments.
    """
    path = Path(__file__).with_name("systems.yaml")
    return validate(Experiments, read_yaml(path, "the file of the package"), f"{path}: ")


def rows_of(experiment: Table, scale_name: str) -> list[Row]:
    """Lists the rows of a table or figure: where it varies settings, one for each choice.

    Args:
        experiment: the table or figure.
        scale_name: the scale that it is run at.

    Returns:
        The rows.
    """
    vary = experiment.vary.get(scale_name, {})
    choices = [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]
    return [_with_settings(row, choice) for row in experiment.rows for choice in choices]


def _with_settings(row: Row, settings: dict[str, Any]) -> Row:
    """Changes settings of the model of a row. Settings that equal its config are dropped."""
    if not settings:
        return row
    model = load_config(row.config, row.overrides).model
    changes = {key: value for key, value in settings.items() if getattr(model, key) != value}
    overrides = merge(row.overrides, {"model": changes} if changes else {})
    return row.model_copy(update={"system": ", ".join(map(str, settings.values())), "overrides": overrides})


def row_config(row: Row, overrides: dict[str, Any], seed: int, folder: str | Path) -> TrainConfig:
    """Returns the settings of one run. Rows of several tables with the same settings are one run.

    Args:
        row: the row.
        overrides: the changes of the scale. The row's own changes win.
        seed: the seed of the run.
        folder: the folder of all runs.

    Returns:
        The settings.
    """
    settings = {"seed": seed, "name": run_name(row, seed), "output": str(folder)}
    return load_config(row.config, merge(merge(overrides, row.overrides), settings))


def run_name(row: Row, seed: int) -> str:
    """Names the folder of a run.

    Args:
        row: the row.
        seed: the seed of the run.

    Returns:
        The name, such as "mnist_channels_64_seed1".
    """
    changes = (f"{key.rpartition('.')[2]}_{value}" for key, value in _flatten(row.overrides).items())
    return "_".join([row.config, *changes, f"seed{seed}"])


def as_text(settings: dict[str, Any]) -> str:
    """Writes settings in a line.

    Args:
        settings: the settings, nested as in a config.

    Returns:
        The line, such as "batch_size 16, model.channels 8".
    """
    return ", ".join(f"{key} {value}" for key, value in _flatten(settings).items())


def _flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
