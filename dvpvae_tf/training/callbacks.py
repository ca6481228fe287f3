"""Callbacks of a training run: checkpoints, logs, pictures and stopping."""

import math
import shutil
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf import evaluation, pictures
from dvpvae_tf.config import TrainConfig, learning_rate_at
from dvpvae_tf.errors import UserError
from dvpvae_tf.files import append_csv, write_atomically
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.training.run_folder import MONITORED, Progress, RunFolder

MOST_SKIPPED_STEPS = 20


class TakeAverage(keras.callbacks.Callback):
    """Copies the averaged weights to another model after each epoch.

    They are swapped in and out, which is not exact to the last bit: all workers must do so, or their weights drift
    apart.

    Args:
        averaged: the model that takes them.
    """

    def __init__(self, averaged: DVPVAE):
        super().__init__()
        self.averaged = averaged

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        swap = keras.callbacks.SwapEMAWeights()
        swap.set_model(self.model)
        swap.on_test_begin()
        self.averaged.set_weights(self.model.get_weights())
        swap.on_test_end()


class StopWhenNotFinite(keras.callbacks.Callback):
    """Ends a run that skips one step after another because its loss or gradient is not finite.

    Args:
        folder: the folder of the run, named in the message.
    """

    def __init__(self, folder: RunFolder):
        super().__init__()
        self.folder = folder
        self.skipped_in_a_row = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.total = 0.0  # the metric starts anew, too

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the skipped steps.

        Raises:
            UserError: after too many in a row.
        """
        total = float(logs["skipped_steps"])
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if total > self.total else 0
        self.total = total
        if self.skipped_in_a_row >= MOST_SKIPPED_STEPS:
            kept = self.folder.saved_epochs()
            state = (
                f"the state after epoch {kept[0]} is kept in {self.folder.checkpoints}" if kept else "no epoch was kept"
            )
            raise UserError(
                f"The loss or its gradient was not finite in {MOST_SKIPPED_STEPS} steps in a row ({state}): "
                "try a lower --learning-rate or --gradient-clip-norm under another --name."
            )


class FollowProgress(keras.callbacks.Callback):
    """Remembers the best epoch, and ends a run that has found no better one for a while.

    An epoch counts only if its last step was not skipped and its validation bound is finite.

    Args:
        progress: the best epoch so far.
        stopper: the callback that counts skipped steps, which must come first.
        patience: after how many epochs without a better one to stop; 0 for never.
    """

    def __init__(self, progress: Progress, stopper: StopWhenNotFinite, patience: int = 0):
        super().__init__()
        self.progress = progress
        self.stopper = stopper
        self.patience = patience

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.healthy = self.stopper.skipped_in_a_row == 0 and math.isfinite(logs[MONITORED])
        if self.healthy and logs[MONITORED] < self.progress.best:
            self.progress = Progress(float(logs[MONITORED]), epoch + 1)
        if self.is_exhausted(epoch + 1):
            self.model.stop_training = True

    def is_exhausted(self, epochs: int) -> bool:
        """Whether there has been no better epoch for as long as the patience lasts.

        Args:
            epochs: how many epochs are finished.
        """
        return 0 < self.patience <= epochs - self.progress.best_epoch


class LogEpochs(keras.callbacks.Callback):
    """Writes the metrics of each epoch, and the norm of the gradient at each step before it is clipped (Figure 7).

    Args:
        folder: the folder of the run.
    """

    def __init__(self, folder: RunFolder):
        super().__init__()
        self.folder = folder

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.norms: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # A sum of one number, read from the first device at hand: `result` would need all workers.
        norms = self.model.distribute_strategy.experimental_local_results(self.model.last_gradient_norm.total.value)
        self.norms.append(float(norms[0]))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        append_csv(self.folder.metrics, [{"epoch": epoch, **logs}])
        norms = [{"epoch": epoch, "step": step, "gradient_norm": norm} for step, norm in enumerate(self.norms)]
        append_csv(self.folder.gradient_norms, norms)


class SaveEpoch(keras.callbacks.Callback):
    """Saves the averaged model as `last.keras`, the best one as `best.keras`, and what a resumed run needs.

    It leaves out an epoch after which the model is broken. It comes after all that writes logs: an epoch with a
    checkpoint is finished.

    Args:
        folder: the folder of the run.
        averaged: the model with the averaged weights.
        follower: knows the best epoch.
    """

    def __init__(self, folder: RunFolder, averaged: DVPVAE, follower: FollowProgress):
        super().__init__()
        self.folder = folder
        self.averaged = averaged
        self.follower = follower

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not self.follower.healthy:
            return
        write_atomically(self.folder.last, self.averaged.save)
        if self.follower.progress.best_epoch == epoch + 1:
            write_atomically(self.folder.best, lambda path: shutil.copyfile(self.folder.last, path))
        self.folder.save(self.model, epoch + 1, self.follower.progress)


class TensorBoardPictures(keras.callbacks.Callback):
    """Writes pictures, KL and active units of each layer to TensorBoard, with the averaged weights.

    Args:
        folder: the folder of the run.
        averaged: the model with the averaged weights.
        images: uint8 array `[N, D, D, C]`, of the validation set.
        every: epochs between two writings.
    """

    def __init__(self, folder: RunFolder, averaged: DVPVAE, images: np.ndarray, every: int):
        super().__init__()
        self.averaged = averaged
        self.images = images
        self.every = every
        self.writer = tf.summary.create_file_writer(str(folder.tensorboard / "pictures"))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if (epoch + 1) % self.every and epoch + 1 < self.params["epochs"]:
            return
        statistics = evaluation.layer_statistics(self.averaged, self.images)
        with self.writer.as_default(step=epoch):
            for layer, (kl, active) in enumerate(zip(statistics.kl, statistics.active_units, strict=True)):
                number = len(statistics.kl) - layer  # z_L is at the top
                tf.summary.scalar(f"kl_z/z_{number}", kl)
                tf.summary.scalar(f"active_units/z_{number}", active)
            tf.summary.scalar("active_units/all", statistics.all_active_units)
            tf.summary.image("samples", pictures.grid(pictures.samples(self.averaged))[None])
            rows = pictures.reconstructions(self.averaged, self.images[:10])
            tf.summary.image("reconstructions", pictures.grid(rows)[None])
        self.writer.flush()


def learning_rate_schedule(config: TrainConfig) -> keras.callbacks.LearningRateScheduler:
    """Makes the callback that sets the learning rate of each epoch (Table 7).

    Args:
        config: the settings of the run.

    Returns:
        The callback.
    """
    rates = config.model_dump(include={"epochs", "warmup_epochs", "learning_rate", "end_learning_rate"})
    return keras.callbacks.LearningRateScheduler(lambda epoch, _: learning_rate_at(epoch, **rates))
