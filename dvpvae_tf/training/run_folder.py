"""The folder of one training run."""

import contextlib
import hashlib
import json
import math
import operator
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from dvpvae_tf.config import TrainConfig, load_config, write_config
from dvpvae_tf.errors import UserError, first_line
from dvpvae_tf.files import lock_folder, read_csv, write_atomically, write_csv, write_json
from dvpvae_tf.optimizers import OTHER_STATE

MONITORED = "val_negative_elbo"
SPLITS = ("training", "validation", "test")  # as `images.npz` names them
# What may differ between a run and its continuation without changing what is computed.
FREE_TO_CHANGE = {
    *("data_dir", "omniglot_mat", "name", "output", "picture_every_epochs", "early_stopping_epochs"),
    *("strategy", "jit_compile", "gradient_accumulation", "remat"),
}
# The images may be elsewhere: they are compared themselves.
FREE_TO_MOVE = {*FREE_TO_CHANGE, "dataset"}


class Progress(NamedTuple):
    """The best validation bound so far, nats, and the number of epochs that were finished when it was reached."""

    best: float = math.inf
    best_epoch: int = 0


class RunFolder:
    """The files of one run: settings, images seen, metrics of epochs and steps, `tensorboard/`, checkpoints, models.

    Args:
        config: the settings, with a name.
    """

    def __init__(self, config: TrainConfig):
        self.config = config
        self.path = Path(config.output) / str(config.name)
        self.config_file = self.path / "config.yaml"
        self.images_file = self.path / "images.npz"
        self.metrics = self.path / "metrics.csv"
        self.gradient_norms = self.path / "gradient_norms.csv"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best.keras"
        self.last = self.path / "last.keras"
        self.test_bound = self.path / "test_bound.json"

    @contextlib.contextmanager
    def open(self, resume: bool, images: Sequence[np.ndarray]) -> Iterator[None]:
        """Makes the folder, or checks that it holds this run; other processes are kept out until the end of the scope.

        Args:
            resume: whether there must be something to go on from.
            images: uint8 arrays `[N, D, D, C]` of the training, validation and test split.

        Raises:
            UserError: if the folder cannot be written, holds another run or one of other images, another process
                trains in it, or there is nothing to resume.
        """
        hashes: dict[str, Any] = {name: hash_images(split) for name, split in zip(SPLITS, images, strict=True)}
        try:
            if self.config_file.exists():
                self._check_same_run(resume, hashes)
            if resume and not self.saved_epochs():
                raise UserError(
                    f"There is no checkpoint in {self.path} to resume from: leave out --resume to start the run."
                )
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            lock = contextlib.ExitStack()
            lock.enter_context(lock_folder(self.path))
        except OSError as error:
            raise UserError(f"Cannot write to {self.path}: {error.strerror}. Give another --output folder.") from error
        with lock:
            write_atomically(self.config_file, lambda path: write_config(self.config, path))
            write_atomically(self.images_file, lambda path: np.savez(path, **hashes))
            yield

    def _check_same_run(self, resume: bool, hashes: dict[str, np.ndarray]) -> None:
        # T is chosen once training is over.
        ours, theirs = (
            config.model_dump(exclude={"model": {"diffusion_steps"}})
            for config in (self.config, load_config(self.config_file))
        )
        earlier = _read_hashes(self.images_file)
        if not earlier and self.saved_epochs() and self.config.dataset.startswith("folder:"):
            raise UserError(
                f"{self.images_file} is missing or damaged, or {self.path} was started by an earlier version, which "
                "split folders in another way: its test images could be trained on. Give this run another --name."
            )
        changed = [name for name in earlier if not np.array_equal(earlier[name], hashes[name])]
        if changed and ours["dataset"] == theirs["dataset"]:
            counts = ", ".join(f"{name}: {len(hashes[name])} now, {len(earlier[name])} then" for name in changed)
            raise UserError(
                f"{self.config.dataset} holds other images than when {self.path} was started ({counts}): "
                "put them back as they were, or give this run another --name."
            )
        free = FREE_TO_MOVE if earlier and not changed else FREE_TO_CHANGE
        different = sorted(key for key in ours if ours[key] != theirs[key] and key not in free)
        longer = different == ["epochs"] and ours["epochs"] > theirs["epochs"]
        if different and not (longer and resume):
            train_on = "--resume to train on, or " if longer else ""
            raise UserError(
                f"{self.path} holds a run with other settings ({', '.join(different)} differ): "
                f"give {train_on}this one another --name, or remove that folder."
            )

    def saved_epochs(self) -> list[int]:
        """The numbers of finished epochs that there are checkpoints of, newest first."""
        return sorted(self._checkpoints(), reverse=True)

    def _checkpoints(self) -> dict[int, Path]:
        """All checkpoints by their number of epochs; earlier versions wrote `.weights.h5` files."""
        paths = [path for suffix in ("weights.h5", "keras") for path in self.checkpoints.glob(f"[0-9]*.{suffix}")]
        numbered = [(path.name.partition(".")[0], path) for path in paths]
        return {int(number): path for number, path in numbered if number.isdecimal()}  # not the user's "3 copy.keras"

    def save(self, model: keras.Model, epochs: int, progress: Progress) -> None:
        """Writes the checkpoint of an epoch (weights, EMA, optimizer, step), and removes all but the last two.

        Keras writes a `.keras` file through Python. For a `.weights.h5` file it lets HDF5 write to the disk, and that
        crashes the process where the disk is full.

        Args:
            model: the compiled model.
            epochs: how many epochs are finished.
            progress: the best of these epochs.

        Raises:
            UserError: if it cannot be written.
        """
        write_json(self.checkpoints / f"{epochs}.json", progress._asdict())
        write_atomically(self.checkpoints / f"{epochs}.keras", model.save)
        for old in self.saved_epochs()[2:]:
            self._checkpoints()[old].unlink()
            (self.checkpoints / f"{old}.json").unlink(missing_ok=True)

    def check_best(self) -> None:
        """Checks that a finished run has a best model.

        Raises:
            UserError: if it has none: no epoch was good, or the file was removed.
        """
        if self.best.exists():
            return
        if self.saved_epochs():
            raise UserError(f"{self.best} was removed: copy {self.last} there, or train again under another --name.")
        raise UserError(
            "The validation bound was not finite after any epoch: try a lower --learning-rate or --gradient-clip-norm "
            "under another --name."
        )

    def restore(self, model: keras.Model) -> tuple[int, Progress]:
        """Loads the newest checkpoint that can be read, and removes from the logs what was noted after it.

        Args:
            model: the compiled model, its optimizer built.

        Returns:
            How many epochs are finished, 0 if there is no checkpoint, and the best of them.

        Raises:
            UserError: if there are checkpoints and none can be read.
        """
        epochs = self._load_weights(model)
        for log in (self.metrics, self.gradient_norms):
            rows = [row for row in read_csv(log) if _epoch_of(row) < epochs]
            if rows:
                write_csv(log, rows)
            else:
                log.unlink(missing_ok=True)
        return epochs, self._progress(epochs)

    def _load_weights(self, model: keras.Model) -> int:
        for epochs in self.saved_epochs():
            path = self._checkpoints()[epochs]
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    model.load_weights(path)
                if any(OTHER_STATE in str(warning.message) for warning in caught):  # the run is to go on exactly
                    raise UserError(OTHER_STATE)
                return epochs
            except Exception as error:  # zipfile, h5py and Keras raise many types for a damaged file
                reason = first_line(error)
                print(f"{path} is damaged and left out ({reason})")
        if self.saved_epochs():
            raise UserError(f"No checkpoint in {self.checkpoints} can be read: remove {self.path} to start again.")
        return 0

    def _progress(self, epochs: int) -> Progress:
        """The best of the first epochs: what was saved, or for a run of an earlier version what its log says."""
        try:
            return Progress(**json.loads((self.checkpoints / f"{epochs}.json").read_text()))
        except (OSError, ValueError, TypeError):
            rows = [row for row in read_csv(self.metrics) if _epoch_of(row) < epochs]
            logged = [Progress(_bound_of(row), int(_epoch_of(row)) + 1) for row in rows]
            return min(logged, key=operator.attrgetter("best"), default=Progress())


def _epoch_of(row: dict[str, str]) -> float:
    """The epoch of a row of a log; infinity where the row is damaged."""
    return int(row["epoch"]) if row.get("epoch", "").isdecimal() else math.inf


def _bound_of(row: dict[str, str]) -> float:
    """The validation bound of a row of a log; infinity where it is not finite or damaged."""
    with contextlib.suppress(KeyError, ValueError):
        bound = float(row[MONITORED])
        return bound if math.isfinite(bound) else math.inf
    return math.inf


def hash_images(images: np.ndarray) -> np.ndarray:
    """Computes a checksum of each image.

    Args:
        images: uint8 array `[N, D, D, C]`.

    Returns:
        uint64 array `[N]`.
    """
    digests = (hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images)
    return np.frombuffer(b"".join(digests), np.uint64)


def count_trained_on(path: str | Path, split: str, images: np.ndarray) -> int:
    """Counts the images of a split that a run was trained on; there are some where the split has changed since.

    Images that were in both splits from the start, as duplicates, do not count.

    Args:
        path: folder of a training run, or a `.keras` file in one.
        split: "validation" or "test".
        images: uint8 array `[N, D, D, C]`, the split as it is now.

    Returns:
        Their number; 0 where the run has no record of its images.
    """
    earlier = _read_hashes(_folder_of(path) / "images.npz")
    if not earlier:
        return 0
    now = hash_images(images)
    return int((np.isin(now, earlier["training"]) & ~np.isin(now, earlier[split])).sum())


def _read_hashes(path: Path) -> dict[str, np.ndarray]:
    """Checksums of the images of each split; empty for a run of an earlier version, which kept none."""
    try:
        with np.load(path) as file:
            return {name: file[name] for name in SPLITS}
    except Exception:  # NumPy and zipfile raise many types for a damaged file
        return {}


def run_config(path: str | Path) -> TrainConfig | None:
    """Reads the settings of a training run.

    Args:
        path: folder of a training run, or a `.keras` file in one.

    Returns:
        The settings; None if there is no `config.yaml` there.

    Raises:
        UserError: if it cannot be read.
    """
    file = _folder_of(path) / "config.yaml"
    return load_config(file) if file.is_file() else None


def _folder_of(path: str | Path) -> Path:
    """The folder that is given, or that holds the file that is given. The name of a trained model is no file."""
    return Path(path).parent if Path(path).is_file() else Path(path)
