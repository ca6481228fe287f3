"""Private names of KerasTuner, all in one place, tested with version 1.4.

What is changed, and why no public name does it:
- `Oracle._random_values` draws the settings of a trial: one with too many parameters is drawn again. KerasTuner builds
  such a model, fails the trial and counts it.
- `BayesianOptimizationOracle._vectorize_trials` gives the Gaussian process its points. KerasTuner leaves out failed
  trials, and may propose one of them for ever; here they count as the worst.
- `Oracle._retry_queue` holds the trials that a killed search runs again. KerasTuner's holds finished ones, too.
- `Oracle.save` and `Oracle._save_trial` write the files of the search. KerasTuner empties a file before it writes it: a
  kill, or a full disk, would lose the search.
- `Tuner._populate_initial_space` builds a model for nothing but to learn what is searched.
- `keras_tuner.src.config.DEBUG` prints the traceback of each failed trial. Its last line is printed here.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras_tuner
import numpy as np
from keras_tuner.engine.trial import Trial
from keras_tuner.src import config as keras_tuner_config

from dvpvae_tf.errors import UserError
from dvpvae_tf.files import write_text

MOST_DRAWS = 1000
keras_tuner_config.DEBUG = False


class WithinBudget(keras_tuner.Oracle):
    """An oracle that draws new settings when `fits` rejects the first ones."""

    fits: Callable[[dict[str, Any]], bool] = staticmethod(lambda values: True)
    problem: UserError | None = None  # why the search has stopped
    _retry_queue: list[str]  # numbers of trials, KerasTuner's own

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Proposes the settings of a trial. A problem ends the search: after an error a chief would wait for ever."""
        try:
            return self.propose(trial_id)
        except UserError as error:
            self.problem = error
            return {"status": "STOPPED", "values": None}

    def propose(self, trial_id: str) -> dict[str, Any]:
        """Proposes the settings of a trial, as KerasTuner does; raises a `UserError` where it cannot."""
        return super().populate_space(trial_id)

    def _random_values(self):
        for _ in range(MOST_DRAWS):
            values = super()._random_values()
            if values is None or self.fits(values):
                return values
        raise UserError(
            f"none of {MOST_DRAWS} draws has few enough parameters: give a larger --max-parameters and another --output"
        )

    def save(self) -> None:
        """Writes the state of the search, whole or not at all."""
        write_text(self._get_oracle_fname(), json.dumps(self.get_state()))

    def _save_trial(self, trial: Trial) -> None:
        write_text(Path(self._get_trial_dir(trial.trial_id)) / "trial.json", json.dumps(trial.get_state()))

    def take_up(self) -> None:
        """Goes on with an earlier search. What was running when it was killed is run again, and nothing else."""
        self.reload()  # KerasTuner does so itself, but not before a first trial has ended
        for trial_id in set(self.trials) - set(self.start_order):
            del self.trials[trial_id]  # killed while it was being noted: it is drawn again
        self._retry_queue = [each for each in self._retry_queue if self.trials[each].status == "RUNNING"]


class RandomOracle(WithinBudget, keras_tuner.oracles.RandomSearchOracle):
    """Draws all settings at random."""


class HyperbandOracle(WithinBudget, keras_tuner.oracles.HyperbandOracle):
    """Draws the settings of the first round at random, and goes on with the best."""


class BayesianOracle(WithinBudget, keras_tuner.oracles.BayesianOptimizationOracle):
    """Draws the first trials at random, and the others where a Gaussian process expects most."""

    def propose(self, trial_id: str) -> dict[str, Any]:
        """Proposes the settings of a trial; where the process proposes a model that is too large, random ones."""
        proposal = super().propose(trial_id)
        if proposal["status"] == "RUNNING" and not self.fits(proposal["values"]):
            return self._random_populate_space()
        return proposal

    def _vectorize_trials(self):
        places, scores = super()._vectorize_trials()
        failed = [
            trial.hyperparameters.values for trial in self.trials.values() if trial.status in ("FAILED", "INVALID")
        ]
        theirs = [[each.value_to_prob(values[each.name]) for each in self._nonfixed_space()] for values in failed]
        return np.array([*places, *theirs]), np.array([*scores, *[max(scores)] * len(failed)])


class DeclaredSpace(keras_tuner.Tuner):
    """A tuner whose hypermodel declares what is searched without building a model."""

    def search(self, *args: Any, **kwargs: Any) -> None:
        """Searches, as KerasTuner does, or raises the `UserError` that has stopped the search."""
        super().search(*args, **kwargs)
        if isinstance(self.oracle, WithinBudget) and self.oracle.problem:  # a worker has no oracle of its own
            raise self.oracle.problem

    def _populate_initial_space(self):
        space = self.oracle.get_space()
        self.hypermodel.declare_hyperparameters(space)
        self.oracle.update_space(space)
