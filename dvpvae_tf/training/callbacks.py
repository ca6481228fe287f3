"""What a training run does at the end of each step and epoch."""

import csv
import functools
import shutil

import keras
import tensorflow as tf

from dvpvae_tf import evaluation, pictures
from dvpvae_tf.config import learning_rate_at
from dvpvae_tf.errors import UserError
from dvpvae_tf.files import write_atomically
from dvpvae_tf.training.run_folder import MONITORED

MOST_SKIPPED_STEPS = 20


class TakeAverage(keras.callbacks.Callback):
    """Gives the averaged weights to another model after each epoch.

    They are swapped in and out, which is not exact to the last bit: all workers must do so, or their weights drift
    apart.

    Args:
        averaged: `DVPVAE`, takes them.
    """

    def __init__(self, averaged):
        super().__init__()
        self.averaged = averaged

    def on_epoch_end(self, epoch, logs=None):
        """Copies after an epoch."""
        swap = keras.callbacks.SwapEMAWeights()
        swap.set_model(self.model)
        swap.on_test_begin()
        self.averaged.set_weights(self.model.get_weights())
        swap.on_test_end()


class SaveModels(keras.callbacks.Callback):
    """Keeps the averaged weights as `last.keras` and, where the validation is the best so far, `best.keras`.

    Args:
        folder: `RunFolder`.
        averaged: `DVPVAE` with the averaged weights.
        best: float, the best validation bound so far, nats.
    """

    def __init__(self, folder, averaged, best):
        super().__init__()
        self.folder = folder
        self.averaged = averaged
        self.best = best

    def on_epoch_end(self, epoch, logs=None):
        """Saves after an epoch."""
        write_atomically(self.folder.last, self.averaged.save)
        if logs[MONITORED] < self.best:
            self.best = logs[MONITORED]
            write_atomically(self.folder.best, lambda path: shutil.copyfile(self.folder.last, path))


class SaveCheckpoint(keras.callbacks.Callback):
    """Keeps all that a resumed run needs (weights, EMA, optimizer, step) of the last two epochs.

    Args:
        folder: `RunFolder`.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def on_epoch_end(self, epoch, logs=None):
        """Saves after an epoch."""
        save = functools.partial(self.model.save_weights, overwrite=True)  # over what a kill may have left
        write_atomically(self.folder.checkpoint(epoch + 1), save)
        for old in self.folder.saved_epochs()[2:]:
            self.folder.checkpoint(old).unlink()


class LogGradientNorms(keras.callbacks.Callback):
    """Writes the norm of the gradient at each step, before it is clipped (Figure 7): epoch, step in it, norm.

    Args:
        folder: `RunFolder`.
    """

    def __init__(self, folder):
        super().__init__()
        self.path = folder.gradient_norms

    def on_epoch_begin(self, epoch, logs=None):
        """Starts an epoch."""
        self.norms = []

    def on_train_batch_end(self, batch, logs=None):
        """Notes the norm of a step."""
        # A sum of one number, read from the first device at hand: `result` would need all workers.
        norms = self.model.distribute_strategy.experimental_local_results(self.model.last_gradient_norm.total.value)
        self.norms.append(float(norms[0]))

    def on_epoch_end(self, epoch, logs=None):
        """Writes the norms of an epoch."""
        header = [] if self.path.exists() else [["epoch", "step", "gradient_norm"]]
        rows = [[epoch, step, norm] for step, norm in enumerate(self.norms)]
        with open(self.path, "a", newline="") as file:
            csv.writer(file).writerows([*header, *rows])


class StopWhenNotFinite(keras.callbacks.Callback):
    """Ends a run that skips one step after another because its loss or gradient is not finite.

    Args:
        folder: `RunFolder`, named in the message.
    """

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.in_a_row = 0

    def on_epoch_begin(self, epoch, logs=None):
        """Starts counting anew with the metric."""
        self.total = 0.0

    def on_train_batch_end(self, batch, logs=None):
        """Counts.

        Raises:
            UserError: after too many steps in a row.
        """
        total = float(logs["skipped_steps"])
        self.in_a_row = self.in_a_row + 1 if total > self.total else 0
        self.total = total
        if self.in_a_row >= MOST_SKIPPED_STEPS:
            kept = self.folder.saved_epochs()
            state = (
                f"the state after epoch {kept[0]} is kept in {self.folder.checkpoints}"
                if kept
                else "no epoch was finished"
            )
            raise UserError(
                f"The loss or its gradient was not finite in {MOST_SKIPPED_STEPS} steps in a row ({state}): "
                "try a lower --learning-rate or --gradient-clip-norm under another --name."
            )


class TensorBoardPictures(keras.callbacks.Callback):
    """Writes pictures, KL and active units of each layer to TensorBoard, with the averaged weights.

    Args:
        folder: `RunFolder`.
        averaged: `DVPVAE` with the averaged weights.
        images: uint8 array `[N, D, D, C]`, of the validation set.
        every: int, epochs between two writings.
    """

    def __init__(self, folder, averaged, images, every):
        super().__init__()
        self.averaged = averaged
        self.images = images
        self.every = every
        self.writer = tf.summary.create_file_writer(str(folder.tensorboard / "pictures"))

    def on_epoch_end(self, epoch, logs=None):
        """Writes after an epoch."""
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


def learning_rate_schedule(config):
    """Makes the callback that sets the learning rate of each epoch (Table 7).

    Args:
        config: `TrainConfig`.

    Returns:
        `keras.callbacks.LearningRateScheduler`.
    """
    rates = config.model_dump(include={"epochs", "warmup_epochs", "learning_rate", "end_learning_rate"})
    return keras.callbacks.LearningRateScheduler(lambda epoch, _: learning_rate_at(epoch, **rates))
