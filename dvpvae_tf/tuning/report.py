"""Results of a search: a table of its trials, a picture of them, and the settings of the best."""

import math
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial
from matplotlib import colormaps
from matplotlib.figure import Figure

from dvpvae_tf.config import TrainConfig, settings_as_yaml
from dvpvae_tf.errors import UserError
from dvpvae_tf.files import markdown_table, write_atomically, write_csv, write_text
from dvpvae_tf.tuning.space import Choices, Range

OBJECTIVE = keras_tuner.Objective("val_bits_per_dim", "min")
Row = dict[str, Any]  # of the table: a cell for each column


def write_results(tuner: keras_tuner.Tuner) -> Path:
    """Writes what a search has found: `results.csv`, `results.md`, `parallel_coordinates.png` and `best.yaml`.

    Args:
        tuner: the tuner of `make_tuner`, after its search; not in a worker.

    Returns:
        Path of `best.yaml`, which `python -m dvpvae_tf.train --config` takes.

    Raises:
        UserError: if no trial was completed, or a file cannot be written.
    """
    folder, config, names = Path(tuner.directory), tuner.hypermodel.config, list(tuner.hypermodel.choices)
    trials = sorted(tuner.oracle.trials.values(), key=lambda trial: (_objective(trial), trial.trial_id))
    rows = [_row(trial, names) for trial in trials]
    write_csv(folder / "results.csv", rows)
    write_text(folder / "results.md", _as_markdown(rows, config))
    if not trials or trials[0].status != "COMPLETED":
        raise UserError(f"no trial was completed: {folder / 'results.md'} says why")
    write_atomically(folder / "parallel_coordinates.png", lambda path: _draw(path, tuner.hypermodel.choices, rows))
    best = tuner.hypermodel.config_of(trials[0].hyperparameters)
    text = f"# Trial {trials[0].trial_id}: {trials[0].score:.4f} bits per dimension on the validation set.\n"
    text += settings_as_yaml(best.model_copy(update={"name": f"{best.name}_tuned"}))
    write_text(folder / "best.yaml", text)
    return folder / "best.yaml"


def _objective(trial: Trial) -> float:
    return trial.score if trial.status == "COMPLETED" else math.inf


def reason(trial: Trial) -> str:
    """Says why a trial failed.

    Args:
        trial: the trial.

    Returns:
        The last line of the traceback that KerasTuner keeps, or "" where the trial did not fail.
    """
    lines = (trial.message or "").strip().splitlines()
    return lines[-1].removeprefix("keras_tuner.src.errors.FailedTrialError: ") if lines else ""


def _row(trial: Trial, names: list[str]) -> Row:
    done = trial.status == "COMPLETED"
    measured = {name: int(trial.metrics.get_last_value(name)) if done else "" for name in ("parameters", "epochs")}
    return {
        "trial": trial.trial_id,
        OBJECTIVE.name: trial.score if done else "",
        **measured,
        **{name: trial.hyperparameters.values[name] for name in names},
        "status": trial.status.lower(),
        "reason": reason(trial),
    }


def _as_markdown(rows: list[Row], config: TrainConfig) -> str:
    if not rows:
        return "No trials.\n"
    table = markdown_table(list(rows[0]), [[_cell(value) for value in row.values()] for row in rows])
    notes = [
        f"- {OBJECTIVE.name}: the bound of the averaged weights on the validation set, in the best epoch.",
        f"- The other settings: those of {config.name}, {config.epochs} epochs in all, seed {config.seed}.",
    ]
    return "\n".join(["# Trials, best first", "", *table, "", *notes, ""])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "/")


def _draw(path: Path, choices: Choices, rows: list[Row]) -> None:
    """An axis for each setting and a line for each completed trial: the best one red, the others from dark to light."""
    done = [row for row in rows if row["status"] == "completed"]
    scores = [row[OBJECTIVE.name] for row in done]
    found = Range.model_construct(min=min(scores), max=max(scores), sampling="linear")
    scales = {**choices, OBJECTIVE.name: found}
    figure = Figure(figsize=(1.4 * len(scales) + 1, 5), layout="constrained")
    axes = figure.subplots()
    for rank, row in reversed(list(enumerate(done))):
        place = rank / len(done)
        style: dict[str, Any] = (
            {"color": colormaps["viridis"](place), "linewidth": 1.3} if rank else {"color": "tab:red", "linewidth": 3}
        )
        axes.plot([_height(scale, row[name], place) for name, scale in scales.items()], **style)
    for column, scale in enumerate(scales.values()):
        axes.axvline(column, color="black", linewidth=0.8)
        for tick in _ticks(scale):
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
            axes.text(column + 0.04, _height(scale, tick), _cell(tick), va="center", fontsize=9, bbox=box, zorder=3)
    axes.set_xticks(range(len(scales)), [name.replace("_", "\n", 1).replace("_", " ") for name in scales])
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.set(yticks=[], xlim=(-0.1, len(scales) - 0.4), ylim=(-0.06, 1.06))
    axes.spines[:].set_visible(False)
    figure.savefig(path, dpi=120, format="png")


def _height(scale: Range | list[Any], value: Any, place: float = 0.5) -> float:
    """Returns the height of a value on an axis from 0 to 1. Lines through the same choice are shifted a little."""
    if not isinstance(scale, Range):
        return scale.index(value) / max(len(scale) - 1, 1) + 0.03 * (place - 0.5)
    low, high, value = (math.log(each) if scale.sampling == "log" else each for each in (scale.min, scale.max, value))
    return (value - low) / ((high - low) or 1)


def _ticks(scale: Range | list[Any]) -> list[Any]:
    if not isinstance(scale, Range):
        return scale
    space = np.geomspace if scale.sampling == "log" else np.linspace
    return space(scale.min, scale.max, 5).tolist()
