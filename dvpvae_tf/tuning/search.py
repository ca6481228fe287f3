"""The search for better settings with KerasTuner: how a trial is trained, and how a search starts and goes on.

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

import functools
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import tensorflow as tf
import yaml
from keras_tuner.engine.trial import Trial
from keras_tuner.errors import FailedTrialError

from dvpvae_tf import training
from dvpvae_tf.config import ModelConfig, TrainConfig
from dvpvae_tf.config.presets import read_yaml
from dvpvae_tf.distribute.strategies import make_strategy
from dvpvae_tf.errors import UserError, did_you_mean
from dvpvae_tf.files import make_folder, write_text
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.models.build import build_model
from dvpvae_tf.training.callbacks import MOST_SKIPPED_STEPS, StopWhenNotFinite, learning_rate_schedule
from dvpvae_tf.training.run_folder import FREE_TO_CHANGE, RunFolder
from dvpvae_tf.tuning.keras_tuner_internals import (
    BayesianOracle,
    DeclaredSpace,
    HyperbandOracle,
    RandomOracle,
    WithinBudget,
)
from dvpvae_tf.tuning.report import OBJECTIVE, reason
from dvpvae_tf.tuning.space import Range, Space, config_with, find_choices, read_space

ENVIRONMENT = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")


class HyperDVPVAE(keras_tuner.HyperModel):
    """The models of a search, and how one of them is trained.

    Args:
        config: the settings that are not searched, and the epochs.
        space: what is searched.
        steps_per_epoch: training steps in an epoch.
        max_parameters: how many trainable parameters a model may have; None for no limit.

    Raises:
        UserError: if the two do not go together.
    """

    def __init__(self, config: TrainConfig, space: Space, steps_per_epoch: int, max_parameters: int | None = None):
        super().__init__()
        self.config = config
        self.choices = find_choices(space, config)
        self.steps_per_epoch = steps_per_epoch
        self.max_parameters = max_parameters

    def fits(self, values: dict[str, Any]) -> bool:
        """Whether a model has few enough parameters.

        Args:
            values: the values that were drawn, as KerasTuner holds them.

        Returns:
            True where the model may be trained.
        """
        if self.max_parameters is None:
            return True
        return _count_parameters(config_with(self.config, values).model) <= self.max_parameters

    def declare_hyperparameters(self, hp: keras_tuner.HyperParameters) -> None:
        """Names what is searched.

        Args:
            hp: takes the names, and the values to choose from.
        """
        for name, choices in self.choices.items():
            if isinstance(choices, Range):
                hp.Float(name, choices.min, choices.max, sampling=choices.sampling)
            else:
                hp.Choice(name, choices)

    def config_of(self, hp: keras_tuner.HyperParameters) -> TrainConfig:
        """Gives the settings of a trial.

        Args:
            hp: the values that were drawn.

        Returns:
            The settings.
        """
        return config_with(self.config, hp.values)

    def build(self, hp: keras_tuner.HyperParameters) -> DVPVAE:
        return training.make_model(self.config_of(hp), self.steps_per_epoch)

    def fit(
        self,
        hp: keras_tuner.HyperParameters,
        model: DVPVAE,
        train: tf.data.Dataset,
        *,
        validation_data: tf.data.Dataset,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        epochs: int | None = None,
        **kwargs: Any,
    ) -> dict[str, float]:
        """Trains a model as `dvpvae_tf.training.loop.train` does, but for the files.

        Args:
            hp: the values that were drawn.
            model: the compiled model.
            train: training batches.
            validation_data: validation batches.
            callbacks: KerasTuner's callbacks.
            epochs: where Hyperband stops sooner than the config.
            **kwargs: passed to `keras.Model.fit`.

        Returns:
            The lowest bound of the averaged weights on the validation set, in bits per dimension, the number of
            trainable parameters and the epochs.

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
        if config.early_stopping_epochs:
            patience = config.early_stopping_epochs
            callbacks.append(keras.callbacks.EarlyStopping(OBJECTIVE.name, patience=patience, mode=OBJECTIVE.direction))
        try:
            history = model.fit(train, validation_data=validation_data, epochs=epochs, callbacks=callbacks, **kwargs)
        except UserError as error:
            steps = MOST_SKIPPED_STEPS
            raise FailedTrialError(f"the loss or its gradient was not finite in {steps} steps in a row") from error
        bounds = [value for value in history.history[OBJECTIVE.name] if math.isfinite(value)]
        if not bounds:
            raise FailedTrialError("the validation bound was not finite")
        finished = float(history.epoch[-1] + 1)
        return {OBJECTIVE.name: min(bounds), "parameters": float(model.num_parameters), "epochs": finished}


@functools.cache
def _count_parameters(model: ModelConfig) -> int:
    return build_model(model).num_parameters


class Tuner(DeclaredSpace):
    """A tuner that prints why a trial failed, and loads the averaged weights."""

    def on_trial_end(self, trial: Trial) -> None:
        """Prints why a trial failed, and records it."""
        if trial.message:
            print(f"\nTrial {trial.trial_id} failed: {reason(trial)}", flush=True)
        super().on_trial_end(trial)

    def load_model(self, trial: Trial) -> DVPVAE:
        """Loads the averaged weights of a trial's best epoch."""
        model = super().load_model(trial)
        model.optimizer.finalize_variable_values(model.trainable_variables)
        return model


class HyperbandTuner(Tuner, keras_tuner.Hyperband):
    """Trains many models a little and goes on with the best; each continuation counts as a trial."""

    def __init__(self, oracle: HyperbandOracle, hypermodel: HyperDVPVAE, **kwargs: Any):
        keras_tuner.Tuner.__init__(self, oracle, hypermodel, **kwargs)  # KerasTuner's makes an oracle of its own


TUNERS = {"hyperband": HyperbandTuner, "bayesian": Tuner, "random": Tuner}


def make_tuner(
    train: tf.data.Dataset,
    config: TrainConfig,
    space: Space | str | Path | None = None,
    *,
    tuner: str = "random",
    max_trials: int = 12,
    output: str | Path = "tuning",
    max_parameters: int | None = None,
) -> Tuner:
    """Makes a tuner, which goes on where an earlier one with the same output folder has stopped.

    Its objective is the bound of the averaged weights on the validation set. A trial that fails is recorded as such,
    counts, and the search goes on.

    Args:
        train: training batches, see `dvpvae_tf.load_dataset`.
        config: the settings that are not searched, the epochs, and the seed of search and training.
        space: the search space, or its YAML file; None takes `configs/tuning.yaml`.
        tuner: "random", "bayesian" (the first third of the trials at random, the others where a Gaussian process
            expects most) or "hyperband".
        max_trials: trials in all, with the trials of an earlier search.
        output: the folder that all files are written to.
        max_parameters: how many trainable parameters a model may have; None for no limit. Larger models are not drawn.

    Returns:
        The tuner: call its `search(train, validation_data=validation)`, then `write_results`.

    Raises:
        UserError: if the settings do not go together, or the folder cannot be written or holds another search.
    """
    if tuner not in TUNERS:
        raise UserError(f"unknown tuner '{tuner}'{did_you_mean(tuner, TUNERS)}: give one of {', '.join(TUNERS)}")
    if config.strategy == "multiworker":
        raise UserError("strategy multiworker trains one model on all machines: here each trains trials of its own")
    worker, steps_per_epoch, batch = is_worker(), int(train.cardinality()), train.element_spec.shape
    if steps_per_epoch < 0:
        raise UserError("the training data have no end: make them without first_epoch")
    if steps_per_epoch == 0:
        raise UserError("the training data have no batch: make smaller batches")
    expected = (config.model.image_size, config.model.image_size, config.model.image_channels)
    if tuple(batch[1:]) != expected:
        sizes = [" x ".join(map(str, shape)) for shape in (batch[1:], expected)]
        raise UserError(f"the training images are {sizes[0]} but the config is for {sizes[1]}")
    config = config.model_copy(update={"batch_size": batch[0] or config.batch_size})
    space = space if isinstance(space, Space) else read_space(space)
    hypermodel = HyperDVPVAE(config, space, steps_per_epoch, max_parameters)
    folder = Path(output).expanduser()
    _claim(folder, hypermodel, tuner, worker)
    oracle = _make_oracle(tuner, config, max_trials)
    oracle.fits = hypermodel.fits
    try:
        made = TUNERS[tuner](
            oracle,
            hypermodel,
            distribution_strategy=make_strategy(config),
            directory=folder,
            project_name="trials",
        )
        if not worker and (folder / "trials" / "oracle.json").exists():
            oracle.take_up()
    except json.JSONDecodeError as error:
        raise UserError(f"{folder} holds a damaged file ({error}): give another --output, or remove it") from error
    return made


def _make_oracle(tuner: str, config: TrainConfig, max_trials: int) -> WithinBudget:
    seed = config.seed + 1  # KerasTuner takes 0 for none
    options = {"objective": OBJECTIVE, "seed": seed, "max_consecutive_failed_trials": math.inf}
    if tuner == "random":
        return RandomOracle(max_trials=max_trials, **options)
    if tuner == "bayesian":
        return BayesianOracle(max_trials=max_trials, num_initial_points=math.ceil(max_trials / 3), **options)
    oracle = HyperbandOracle(max_epochs=config.epochs, hyperband_iterations=max_trials, **options)
    oracle.max_trials = max_trials  # the constructor takes none
    return oracle


def is_worker() -> bool:
    """Whether this process is one of the workers of a chief.

    Returns:
        True in a worker; False in a chief, or where one process runs the whole search.

    Raises:
        UserError: if some of the environment variables are missing.
    """
    missing = [name for name in ENVIRONMENT if name not in os.environ]
    if ENVIRONMENT[1] in missing:
        return False
    if missing:
        raise UserError(f"{' and '.join(missing)} not set: {', '.join(ENVIRONMENT)} are given together or not at all")
    return "chief" not in os.environ[ENVIRONMENT[0]]


def _claim(folder: Path, hypermodel: HyperDVPVAE, tuner: str, worker: bool) -> None:
    """Notes the settings of the search in its folder, or checks that they are those noted there."""
    config = hypermodel.config.model_dump(mode="json", exclude=FREE_TO_CHANGE)
    choices = {
        name: value.model_dump() if isinstance(value, Range) else value for name, value in hypermodel.choices.items()
    }
    settings = {"tuner": tuner, "max_parameters": hypermodel.max_parameters, "space": choices, **config}
    file = folder / "search.yaml"
    if file.exists():
        try:
            earlier = read_yaml(file, "the file that the search has written")
        except UserError as error:
            raise UserError(f"{error}: give another --output, or remove its folder") from error
        different = sorted(key for key in settings if settings[key] != earlier.get(key))
        if different:
            raise UserError(
                f"{folder} holds a search with other settings ({', '.join(different)} differ): "
                "give another --output, or remove that folder"
            )
    elif not worker:
        make_folder(folder)
        write_text(file, yaml.safe_dump(settings, sort_keys=False, default_flow_style=None))
