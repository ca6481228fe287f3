"""The search for better settings with KerasTuner: what is searched, how a trial is trained, what is left behind.

In a notebook:

    train, validation, _ = dvpvae_tf.load_dataset("mnist5k", batch_size=100)
    tuner = make_tuner(train, load_config("mnist5k"), max_trials=12)
    tuner.search(train, validation_data=validation)
    write_results(tuner)

On several machines that share the output folder, start the same command on each. Three environment variables, given
together, make one of them the chief, who hands out the trials and trains none, and the others its workers:
`KERASTUNER_TUNER_ID` (`chief`, or another name for each worker), `KERASTUNER_ORACLE_IP` and `KERASTUNER_ORACLE_PORT`
(where the chief listens). The chief writes the results.
"""

import csv
import json
import math
import os
from pathlib import Path
from typing import Annotated, Literal

import keras
import keras_tuner
import numpy as np
import yaml
from keras_tuner.errors import FailedTrialError
from matplotlib import colormaps
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dvpvae_tf import training
from dvpvae_tf.config import ModelConfig, TrainConfig, search_space_file, settings_as_yaml
from dvpvae_tf.distribute.strategies import make_strategy
from dvpvae_tf.errors import UserError, did_you_mean
from dvpvae_tf.files import write_atomically
from dvpvae_tf.training.callbacks import MOST_SKIPPED_STEPS, StopWhenNotFinite, learning_rate_schedule
from dvpvae_tf.training.run_folder import FREE_TO_CHANGE, RunFolder

OBJECTIVE = keras_tuner.Objective("val_bits_per_dim", "min")
ENVIRONMENT = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
FIT_THE_IMAGES = ("latent_layout", "pseudoinput_size")  # choices that do not are left out


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Range(_Part):
    """The real numbers from `min` to `max`, drawn uniformly, or uniformly in their logarithm."""

    min: float = Field(gt=0)
    max: float = Field(gt=0)
    sampling: Literal["linear", "log"] = "log"

    @model_validator(mode="after")
    def _check_order(self):
        if self.min >= self.max:
            raise ValueError(f"min {self.min} must be less than max {self.max}")
        return self


_Count = Annotated[int, Field(gt=0)]
_Counts = Annotated[tuple[_Count, ...], Field(min_length=1)]
_Layout = Annotated[dict[_Count, _Count], Field(min_length=1)]


class Space(_Part):
    """What is searched; the settings that are left out keep their value."""

    learning_rate: Range | None = None
    gradient_clip_norm: Range | None = None
    ema_momentum: Range | None = None
    channels: _Counts | None = None
    hidden_channels: _Counts | None = None
    latent_layout: Annotated[tuple[_Layout, ...], Field(min_length=1)] | None = None
    pseudoinput: Annotated[tuple[Literal["dct", "downsample", "learnable"], ...], Field(min_length=1)] | None = None
    pseudoinput_size: _Counts | None = None
    prior_channels: _Counts | None = None
    prior_blocks: _Counts | None = None


def read_space(path=None):
    """Reads what is searched.

    Args:
        path: path of a YAML file; None takes `configs/tuning.yaml`.

    Returns:
        `Space`.

    Raises:
        UserError: if it cannot be read, or a key or range is wrong, in one line that names it.
    """
    path = Path(path or search_space_file())
    try:
        return Space.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}: give the YAML file of a search space") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise UserError(f"{path}: {_explain(error)}") from error


def _explain(error):
    """The first mistake in one line."""
    mistake = error.errors()[0]
    keys = [str(key) for key in mistake["loc"]]
    if mistake["type"] == "extra_forbidden":
        return f"{'.'.join(keys)}: unknown key{did_you_mean(keys[0], Space.model_fields)}: correct or remove it"
    message = mistake["ctx"]["error"] if mistake["type"] == "value_error" else mistake["msg"]
    return f"{'.'.join(keys)}: {message}".removeprefix(": ")


def config_with(config, values):
    """The settings of a trial.

    Args:
        config: `TrainConfig`, the settings that are not searched.
        values: dict, the values that were drawn, as KerasTuner holds them; its own keys count for nothing here.

    Returns:
        `TrainConfig`. Real numbers are rounded to six digits, so that all computers of a search agree on them.

    Raises:
        UserError: if the values do not go together.
    """
    settings = config.model_dump()
    for name, value in values.items():
        if name == "latent_layout":
            settings["model"] |= _parse_layout(value)
        elif name in ModelConfig.model_fields:
            settings["model"][name] = value
        elif name in TrainConfig.model_fields:
            settings[name] = float(f"{value:.6g}")
    try:
        return TrainConfig.model_validate(settings)
    except ValidationError as error:
        raise UserError(_explain(error)) from error


def _write_layout(layout):
    """A latent layout as KerasTuner can hold it: "14:4 7:4" for four layers of side 14 and four of side 7."""
    return " ".join(f"{side}:{layers}" for side, layers in layout.items())


def _parse_layout(text):
    sides, layers = zip(*(map(int, part.split(":")) for part in text.split()), strict=True)
    return {"scales": sides, "layers_per_scale": layers}


def _choices(space, config):
    """What is searched and fits the images: a `Range` or a list for each name."""
    kept = {}
    for name, choices in space:
        if isinstance(choices, Range):
            for end in (choices.min, choices.max):
                config_with(config, {name: end})
            kept[name] = choices
        elif choices is not None:
            values = [_write_layout(value) if name == "latent_layout" else value for value in choices]
            kept[name] = [value for value in values if _is_valid(config, name, value)]
            if not kept[name]:
                raise UserError(
                    f"{name}: none of {', '.join(map(str, values))} fits images of side {config.model.image_size}"
                )
    if not kept:
        raise UserError("the search space is empty: name at least one setting")
    return kept


def _is_valid(config, name, value):
    try:
        config_with(config, {name: value})
    except UserError:
        if name in FIT_THE_IMAGES:
            return False
        raise
    return True


class HyperDVPVAE(keras_tuner.HyperModel):
    """The models of a search, and how one of them is trained.

    Args:
        config: `TrainConfig`, the settings that are not searched, and the epochs.
        space: `Space`.
        steps_per_epoch: int.

    Raises:
        UserError: if the two do not go together.
    """

    def __init__(self, config, space, steps_per_epoch):
        super().__init__()
        self.config = config
        self.choices = _choices(space, config)
        self.steps_per_epoch = steps_per_epoch

    def declare_hyperparameters(self, hp):
        """Names what is searched.

        Args:
            hp: `keras_tuner.HyperParameters`.
        """
        for name, choices in self.choices.items():
            if isinstance(choices, Range):
                hp.Float(name, choices.min, choices.max, sampling=choices.sampling)
            else:
                hp.Choice(name, choices)

    def config_of(self, hp):
        """The settings of a trial.

        Args:
            hp: `keras_tuner.HyperParameters`.

        Returns:
            `TrainConfig`.
        """
        return config_with(self.config, hp.values)

    def build(self, hp):
        return training.make_model(self.config_of(hp), self.steps_per_epoch)

    def fit(self, hp, model, train, *, validation_data, callbacks=(), epochs=None, **kwargs):
        """Trains a model as `dvpvae_tf.training.loop.train` does, but for the files.

        Args:
            hp: `keras_tuner.HyperParameters`.
            model: `DVPVAE`, compiled.
            train: `tf.data.Dataset` of batches.
            validation_data: `tf.data.Dataset` of batches.
            callbacks: list of `keras.callbacks.Callback`, KerasTuner's.
            epochs: int, where Hyperband stops sooner than the config.
            **kwargs: passed to `keras.Model.fit`.

        Returns:
            dict of the lowest bound of the averaged weights on the validation set, in bits per dimension, the trainable
            parameters and the epochs.

        Raises:
            keras_tuner.errors.FailedTrialError: if the training or its bound is not finite.
        """
        config = self.config_of(hp)
        epochs = epochs or config.epochs
        if not model.adapted:
            training.initialize(model, config, train)
        callbacks = [
            keras.callbacks.SwapEMAWeights(),
            learning_rate_schedule(config),
            StopWhenNotFinite(RunFolder(config)),
            *callbacks,
        ]
        try:
            history = model.fit(train, validation_data=validation_data, epochs=epochs, callbacks=callbacks, **kwargs)
        except UserError as error:
            steps = MOST_SKIPPED_STEPS
            raise FailedTrialError(f"the loss or its gradient was not finite in {steps} steps in a row") from error
        bounds = [value for value in history.history[OBJECTIVE.name] if math.isfinite(value)]
        if not bounds:
            raise FailedTrialError("the validation bound was not finite")
        return {OBJECTIVE.name: min(bounds), "parameters": float(model.num_parameters), "epochs": float(epochs)}


class _Tuner(keras_tuner.Tuner):
    """What all tuners of a search do alike."""

    def _populate_initial_space(self):  # KerasTuner's builds a model for nothing but to learn what is searched
        space = self.oracle.get_space()
        self.hypermodel.declare_hyperparameters(space)
        self.oracle.update_space(space)

    def on_trial_end(self, trial):
        """Tells why a trial failed, and notes it."""
        if trial.message:
            print(f"\nTrial {trial.trial_id} failed: {_reason(trial)}", flush=True)
        super().on_trial_end(trial)

    def load_model(self, trial):
        """Loads the averaged weights of a trial's best epoch."""
        model = super().load_model(trial)
        model.optimizer.finalize_variable_values(model.trainable_variables)
        return model


class RandomSearch(_Tuner, keras_tuner.RandomSearch):
    """Draws all settings at random."""


class _Oracle(keras_tuner.oracles.BayesianOptimizationOracle):
    """KerasTuner's forgets failed trials, and may propose one of them for ever: here they count as the worst."""

    def _vectorize_trials(self):
        places, scores = super()._vectorize_trials()
        failed = [
            trial.hyperparameters.values for trial in self.trials.values() if trial.status in ("FAILED", "INVALID")
        ]
        theirs = [[each.value_to_prob(values[each.name]) for each in self._nonfixed_space()] for values in failed]
        return np.array([*places, *theirs]), np.array([*scores, *[max(scores)] * len(failed)])


class BayesianOptimization(_Tuner):
    """Draws the first third of the trials at random, and the others where a Gaussian process expects most."""

    def __init__(self, hypermodel, objective, max_trials, num_initial_points, seed, **kwargs):
        failures = kwargs.pop("max_consecutive_failed_trials")
        oracle = _Oracle(objective, max_trials, num_initial_points, seed=seed, max_consecutive_failed_trials=failures)
        super().__init__(oracle, hypermodel, **kwargs)


class Hyperband(_Tuner, keras_tuner.Hyperband):
    """Trains many models a little and goes on with the best; each continuation counts as a trial."""


TUNERS = {"hyperband": Hyperband, "bayesian": BayesianOptimization, "random": RandomSearch}


def make_tuner(train, config, space=None, *, tuner="random", max_trials=12, output="tuning", max_parameters=None):
    """Makes a tuner, which goes on where an earlier one with the same output folder has stopped.

    Its objective is the bound of the averaged weights on the validation set. A trial that fails, as one with too many
    parameters does before it is trained, is recorded as such, counts, and the search goes on.

    Args:
        train: `tf.data.Dataset` of training batches, see `dvpvae_tf.load_dataset`.
        config: `TrainConfig`: the settings that are not searched, the epochs, and the seed of search and training.
        space: `Space`, path of a YAML file, or None for `configs/tuning.yaml`.
        tuner: str, a key of `TUNERS`.
        max_trials: int, trials in all, those of an earlier search included.
        output: path of the folder that all files are written to.
        max_parameters: int or None, how many trainable parameters a model may have.

    Returns:
        `keras_tuner.Tuner`: call its `search(train, validation_data=validation)`, then `write_results`.

    Raises:
        UserError: if the settings do not go together, or the folder cannot be written or holds another search.
    """
    if tuner not in TUNERS:
        raise UserError(f"unknown tuner '{tuner}'{did_you_mean(tuner, TUNERS)}: give one of {', '.join(TUNERS)}")
    if config.strategy == "multiworker":
        raise UserError("strategy multiworker trains one model on all machines: here each trains trials of its own")
    worker, steps_per_epoch, batch = is_worker(), int(train.cardinality()), train.element_spec.shape
    if steps_per_epoch < 1:
        raise UserError("the training data have no end: make them without first_epoch")
    expected = (config.model.image_size, config.model.image_size, config.model.image_channels)
    if tuple(batch[1:]) != expected:
        sizes = [" x ".join(map(str, shape)) for shape in (batch[1:], expected)]
        raise UserError(f"the training images are {sizes[0]} but the config is for {sizes[1]}")
    config = config.model_copy(update={"batch_size": batch[0] or config.batch_size})
    space = space if isinstance(space, Space) else read_space(space)
    hypermodel = HyperDVPVAE(config, space, steps_per_epoch)
    folder = Path(output)
    _claim(folder, hypermodel, tuner, max_parameters, worker)
    own_arguments = {
        "random": {"max_trials": max_trials},
        "bayesian": {"max_trials": max_trials, "num_initial_points": math.ceil(max_trials / 3)},
        "hyperband": {"max_epochs": config.epochs, "hyperband_iterations": max_trials},
    }
    try:
        made = TUNERS[tuner](
            hypermodel,
            objective=OBJECTIVE,
            seed=config.seed + 1,  # KerasTuner takes 0 for none
            max_consecutive_failed_trials=math.inf,
            max_model_size=max_parameters,
            distribution_strategy=make_strategy(config),
            directory=folder,
            project_name="trials",
            **own_arguments[tuner],
        )
        made.oracle.max_trials = max_trials  # Hyperband takes none
        if not worker and (folder / "trials" / "oracle.json").exists():
            _take_up(made.oracle)
    except json.JSONDecodeError as error:
        raise UserError(f"{folder} holds a damaged file ({error}): give another --output, or remove it") from error
    return made


def is_worker():
    """Whether this process is one of the workers of a chief.

    Returns:
        bool.

    Raises:
        UserError: if some of the environment variables are missing.
    """
    missing = [name for name in ENVIRONMENT if name not in os.environ]
    if ENVIRONMENT[1] in missing:
        return False
    if missing:
        raise UserError(f"{' and '.join(missing)} not set: {', '.join(ENVIRONMENT)} are given together or not at all")
    return "chief" not in os.environ[ENVIRONMENT[0]]


def _claim(folder, hypermodel, tuner, max_parameters, worker):
    """Notes the settings of the search in its folder, or checks that they are those noted there."""
    config = hypermodel.config.model_dump(mode="json", exclude=FREE_TO_CHANGE)
    choices = {
        name: value.model_dump() if isinstance(value, Range) else value for name, value in hypermodel.choices.items()
    }
    settings = {"tuner": tuner, "max_parameters": max_parameters, "space": choices, **config}
    file = folder / "search.yaml"
    if file.exists():
        earlier = yaml.safe_load(file.read_text(encoding="utf-8"))
        different = sorted(key for key in settings if settings[key] != earlier.get(key))
        if different:
            raise UserError(
                f"{folder} holds a search with other settings ({', '.join(different)} differ): "
                "give another --output, or remove that folder"
            )
    elif not worker:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}: give another --output") from error
        text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None)
        write_atomically(file, lambda path: path.write_text(text, encoding="utf-8"))


def _take_up(oracle):
    """Goes on with an earlier search. What was running when it was killed is run again, and nothing else."""
    oracle.reload()  # KerasTuner does so itself, but not before a first trial has ended
    for trial_id in set(oracle.trials) - set(oracle.start_order):
        del oracle.trials[trial_id]  # killed while it was being noted: it is drawn again
    oracle._retry_queue = [each for each in oracle._retry_queue if oracle.trials[each].status == "RUNNING"]


# What a search leaves behind


def write_results(tuner):
    """Writes what a search has found: `results.csv`, `results.md`, `parallel_coordinates.png` and `best.yaml`.

    Args:
        tuner: what `make_tuner` has given, not a worker.

    Returns:
        Path of `best.yaml`, which `python -m dvpvae_tf.train --config` takes.

    Raises:
        UserError: if no trial was completed, or a file cannot be written.
    """
    folder, config, names = Path(tuner.directory), tuner.hypermodel.config, list(tuner.hypermodel.choices)
    trials = sorted(tuner.oracle.trials.values(), key=lambda trial: (_score(trial), trial.trial_id))
    rows = [_row(trial, names) for trial in trials]
    write_atomically(folder / "results.csv", lambda path: _write_csv(path, rows))
    write_atomically(folder / "results.md", lambda path: path.write_text(_as_markdown(rows, config), encoding="utf-8"))
    if not trials or trials[0].status != "COMPLETED":
        raise UserError(f"no trial was completed: {folder / 'results.md'} says why")
    write_atomically(folder / "parallel_coordinates.png", lambda path: _draw(path, tuner.hypermodel.choices, rows))
    best = tuner.hypermodel.config_of(trials[0].hyperparameters)
    text = f"# Trial {trials[0].trial_id}: {trials[0].score:.4f} bits per dimension on the validation set.\n"
    text += settings_as_yaml(best.model_copy(update={"name": f"{best.name}_tuned"}))
    write_atomically(folder / "best.yaml", lambda path: path.write_text(text, encoding="utf-8"))
    return folder / "best.yaml"


def _score(trial):
    return trial.score if trial.status == "COMPLETED" else math.inf


def _reason(trial):
    """Why a trial failed: the last line of the message that KerasTuner keeps, without the name of the exception."""
    lines = (trial.message or "").strip().splitlines()
    return lines[-1].removeprefix("keras_tuner.src.errors.FailedTrialError: ") if lines else ""


def _row(trial, names):
    done = trial.status == "COMPLETED"
    measured = {name: int(trial.metrics.get_last_value(name)) if done else "" for name in ("parameters", "epochs")}
    return {
        "trial": trial.trial_id,
        OBJECTIVE.name: trial.score if done else "",
        **measured,
        **{name: trial.hyperparameters.values[name] for name in names},
        "status": trial.status.lower(),
        "reason": _reason(trial),
    }


def _write_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def _as_markdown(rows, config):
    if not rows:
        return "No trials.\n"
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = [
        f"- {OBJECTIVE.name}: the bound of the averaged weights on the validation set, in the best epoch.",
        f"- The other settings: those of {config.name}, {config.epochs} epochs in all, seed {config.seed}.",
    ]
    return "\n".join(["# Trials, best first", "", table, "", *notes, ""])


def _cell(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "/")


def _draw(path, choices, rows):
    """An axis for each setting and a line for each completed trial: the best one red, the others from dark to light."""
    done = [row for row in rows if row["status"] == "completed"]
    scores = [row[OBJECTIVE.name] for row in done]
    found = Range.model_construct(min=min(scores), max=max(scores), sampling="linear")
    scales = {**choices, OBJECTIVE.name: found}
    figure = Figure(figsize=(1.4 * len(scales) + 1, 5), layout="constrained")
    axes = figure.subplots()
    for rank, row in reversed(list(enumerate(done))):
        place = rank / len(done)
        style = (
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


def _height(scale, value, place=0.5):
    """Where a value is on an axis from 0 to 1; lines through one choice pass beside each other, each at its place."""
    if not isinstance(scale, Range):
        return scale.index(value) / max(len(scale) - 1, 1) + 0.03 * (place - 0.5)
    low, high, value = (math.log(each) if scale.sampling == "log" else each for each in (scale.min, scale.max, value))
    return (value - low) / ((high - low) or 1)


def _ticks(scale):
    if not isinstance(scale, Range):
        return scale
    space = np.geomspace if scale.sampling == "log" else np.linspace
    return space(scale.min, scale.max, 5).tolist()
