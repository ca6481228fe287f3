"""The folder of one training run."""

import csv
from pathlib import Path

import numpy as np

from dvpvae_tf.config import TrainConfig, load_config, write_config
from dvpvae_tf.errors import UserError
from dvpvae_tf.files import write_atomically

MONITORED = "val_negative_elbo"
# What may differ between a run and its continuation without changing what is computed.
FREE_TO_CHANGE = {
    *("data_dir", "omniglot_mat", "name", "output", "picture_every_epochs"),
    *("strategy", "jit_compile", "gradient_accumulation", "remat"),
}


class RunFolder:
    """The files of one run: `config.yaml`, metrics of epochs and steps, `tensorboard/`, `checkpoints/`, models, images.

    Args:
        config: `TrainConfig` with a name.
    """

    def __init__(self, config: TrainConfig):
        self.config = config
        self.path = Path(config.output) / config.name
        self.config_file = self.path / "config.yaml"
        self.metrics = self.path / "metrics.csv"
        self.gradient_norms = self.path / "gradient_norms.csv"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best.keras"
        self.last = self.path / "last.keras"

    def prepare(self, resume):
        """Makes the folder, or checks that the run in it is this one.

        Args:
            resume: bool, whether there must be something to go on from.

        Raises:
            UserError: if the folder cannot be written, holds another run, or there is nothing to resume.
        """
        if self.config_file.exists():
            self._check_same_run(resume)
        if resume and not self.saved_epochs():
            raise UserError(
                f"There is no checkpoint in {self.path} to resume from: leave out --resume to start the run."
            )
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_config(self.config, self.config_file)
        except OSError as error:
            raise UserError(f"Cannot write to {self.path}: {error.strerror}. Give another --output folder.") from error

    def _check_same_run(self, resume: bool) -> None:
        ours, theirs = self.config.model_dump(), load_config(self.config_file).model_dump()
        different = sorted(key for key in ours if ours[key] != theirs[key] and key not in FREE_TO_CHANGE)
        longer = different == ["epochs"] and ours["epochs"] > theirs["epochs"]
        if different and not (longer and resume):
            train_on = "--resume to train on, or " if longer else ""
            raise UserError(
                f"{self.path} holds a run with other settings ({', '.join(different)} differ): "
                f"give {train_on}this one another --name, or remove that folder."
            )

    def saved_epochs(self):
        """The numbers of finished epochs that there are checkpoints of, newest first."""
        return sorted(
            (int(path.name.split(".")[0]) for path in self.checkpoints.glob("[0-9]*.weights.h5")), reverse=True
        )

    def checkpoint(self, epochs):
        """The checkpoint after so many epochs."""
        return self.checkpoints / f"{epochs}.weights.h5"

    def restore(self, model):
        """Loads the newest checkpoint that can be read.

        Args:
            model: compiled `DVPVAE`, its optimizer built.

        Returns:
            int, how many epochs are done; 0 if there is no checkpoint.

        Raises:
            UserError: if there are checkpoints and none can be read.
        """
        for epochs in self.saved_epochs():
            try:
                model.load_weights(self.checkpoint(epochs))
                return epochs
            except (OSError, ValueError, KeyError) as error:
                print(f"{self.checkpoint(epochs)} is damaged and left out ({str(error).splitlines()[0]})")
        if self.saved_epochs():
            raise UserError(f"No checkpoint in {self.checkpoints} can be read: remove {self.path} to start again.")
        return 0

    def best_so_far(self, epochs):
        """The best validation bound of the first epochs, from `metrics.csv`; what was logged of later ones is removed.

        Args:
            epochs: int, how many epochs count.

        Returns:
            float, nats; infinity if there are none.
        """
        _keep_epochs(self.gradient_norms, epochs)
        header, rows = _keep_epochs(self.metrics, epochs)
        return min((float(row[header.index(MONITORED)]) for row in rows), default=np.inf)


def _keep_epochs(path, epochs):
    """Removes the rows of later epochs from a log, and gives its header and the rows that are left."""
    if not path.exists():
        return [], []
    with path.open(newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    rows = [row for row in rows if int(row[0]) < epochs]
    write_atomically(path, lambda temporary: _write_csv(temporary, [header, *rows]))
    return header, rows


def _write_csv(path, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def run_config(path):
    """Reads the settings of a training run.

    Args:
        path: folder of a training run, or a `.keras` file in one.

    Returns:
        `dvpvae_tf.config.TrainConfig`; None if there is no `config.yaml` there.

    Raises:
        UserError: if it cannot be read.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    file = folder / "config.yaml"
    return load_config(file) if file.is_file() else None
