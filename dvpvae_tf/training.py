"""One training run, from its config to the files it leaves in its folder."""

import contextlib
import csv
import functools
import itertools
import math
import shutil
import zlib
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf import evaluation, pictures, workers
from dvpvae_tf.build import build_model
from dvpvae_tf.config import TrainConfig, ema_momentum_for, learning_rate_at, load_config, write_config
from dvpvae_tf.data.pipelines import evaluation_batches, share_of_worker, training_batches
from dvpvae_tf.devices import device_names
from dvpvae_tf.errors import UserError
from dvpvae_tf.files import write_atomically
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.optimizers import Adamax
from dvpvae_tf.runs import load_model

MOST_SKIPPED_STEPS = 20
MONITORED = "val_negative_elbo"
# What may differ between a run and its continuation without changing what is computed.
FREE_TO_CHANGE = {
    *("data_dir", "omniglot_mat", "output", "picture_every_epochs"),
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
            self._check_same_run()
        if resume and not self.saved_epochs():
            raise UserError(
                f"There is no checkpoint in {self.path} to resume from: leave out --resume to start the run."
            )
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_config(self.config, self.config_file)
        except OSError as error:
            raise UserError(f"Cannot write to {self.path}: {error.strerror}. Give another --output folder.") from error

    def _check_same_run(self):
        ours, theirs = self.config.model_dump(), load_config(self.config_file).model_dump()
        different = sorted(key for key in ours if ours[key] != theirs[key] and key not in FREE_TO_CHANGE)
        if different:
            raise UserError(
                f"{self.path} holds a run with other settings ({', '.join(different)} differ): "
                "give this one another --name, or remove that folder."
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


def make_strategy(config):
    """Gives the distribution strategy of a config: one device, all of this machine, or all of those in `TF_CONFIG`.

    The batch size is that of all devices together: each takes an equal part of every batch. The learning rate is the
    config's, however many devices there are: at the same batch size they train as one does. All machines must have the
    same number of devices.

    Args:
        config: `TrainConfig`, or what else has its `strategy` and `batch_size`.

    Returns:
        A `tf.distribute.Strategy`. With "multiworker", it is made when all machines are there, and must be made before
        TensorFlow is used for anything else.

    Raises:
        UserError: if the batch cannot be shared out evenly, or the machines cannot be connected.
    """
    if config.strategy == "single":
        return tf.distribute.get_strategy()
    if config.strategy == "multiworker":
        # Logical devices cannot be listed here: that would use TensorFlow before the machines are connected.
        gpus = tf.config.list_physical_devices("GPU")
        _check_batch_size(config, max(1, len(gpus)) * workers.cluster_size())
        return workers.connect()
    devices = device_names()
    _check_batch_size(config, len(devices))
    return tf.distribute.MirroredStrategy(devices)


def _check_batch_size(config, devices):
    if config.batch_size % devices:
        raise UserError(f"--batch-size {config.batch_size} cannot be shared out evenly to {devices} devices.")


def make_model(config, steps_per_epoch):
    """Builds and compiles the model of a run.

    Args:
        config: `TrainConfig`.
        steps_per_epoch: int.

    Returns:
        `DVPVAE`, compiled, its optimizer built.
    """
    keras.utils.set_random_seed(config.seed)
    dtype = "mixed_bfloat16" if config.mixed_precision else "float32"
    with _rematerialization(config):
        model = build_model(config.model, seed=config.seed, dtype=dtype)
    optimizer = Adamax(
        config.learning_rate,
        epsilon=1e-8,
        weight_decay=config.weight_decay,
        global_clipnorm=config.gradient_clip_norm,
        use_ema=True,
        ema_momentum=ema_momentum_for(steps_per_epoch * config.epochs, config.ema_momentum),
    )
    model.compile(optimizer, jit_compile=config.jit_compile)
    model.gradient_accumulation = config.gradient_accumulation
    optimizer.build(model.trainable_variables)
    return model


def _rematerialization(config):
    """A scope: the residual blocks of both paths that are made in it keep their inputs alone for the backward pass."""
    if not config.remat:
        return contextlib.nullcontext()
    blocks = itertools.product(config.model.scales, range(config.model.encoder_blocks))
    names = [f"scale_{side}_block_{index}" for side, index in blocks]
    return keras.RematScope("list_of_layers", layer_names=[*names, "prior", "posterior", "residual"])


def train(config: TrainConfig, images, resume=False, verbose="auto", strategy=None):
    """Trains a model, from where an earlier run of the same config stopped, and leaves all it gives in the run folder.

    Of several machines the chief alone reads and writes that folder, and prints.

    Args:
        config: `TrainConfig` with a name.
        images: uint8 arrays `[N, D, D, C]` of the training, validation and test split.
        resume: bool, whether there must be a checkpoint to go on from.
        verbose: "auto", 0, 1 or 2, as in `keras.Model.fit`.
        strategy: what `make_strategy(config)` has given, or None to call it here.

    Returns:
        `dvpvae_tf.evaluation.Bound` of the best model on the test set; None on a machine that is not the chief.

    Raises:
        UserError: for every mistake that the user can put right.
        WorkerLost: if another machine fails.
    """
    strategy = strategy or make_strategy(config)
    folder = RunFolder(config)
    devices, parts = strategy.num_replicas_in_sync, config.gradient_accumulation
    if config.batch_size % (devices * parts):
        raise UserError(
            f"--batch-size {config.batch_size} has no {parts} equal parts on each of {devices} devices: change it, or "
            "--gradient-accumulation."
        )
    chief = workers.is_chief(strategy)
    if chief:
        folder.prepare(resume)
    with workers.loss_of_worker_told():
        _fit(folder, images, strategy, chief, verbose if chief else 0)
    return _report(folder, images[2]) if chief else None


def _fit(folder, images, strategy, chief, verbose):
    """Trains the epochs that are not done yet."""
    config, (training, validation, _) = folder.config, images
    steps_per_epoch = len(training) // config.batch_size

    def shared_out(batches):
        return strategy.distribute_datasets_from_function(
            lambda context: share_of_worker(batches, config.batch_size, context)
        )

    with strategy.scope():
        model = make_model(config, steps_per_epoch)
    # Outside the scope: there Keras, as it reads weights, makes variables that all workers would have to make.
    done = folder.restore(model) if chief else 0
    if chief and done == 0:
        model.adapt(training)
    if config.strategy == "multiworker":
        done = _begin_as_chief(strategy, model, done, _fingerprint(config, images))
    if done == config.epochs:
        return
    model.fit(
        shared_out(
            training_batches(training, config.batch_size, config.seed, config.horizontal_flip, first_epoch=done)
        ),
        validation_data=shared_out(evaluation_batches(validation, config.batch_size)),
        initial_epoch=done,
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
        validation_steps=math.ceil(len(validation) / config.batch_size),
        callbacks=_callbacks(folder, model, validation[:200], done, chief),
        verbose=verbose,
    )


def _begin_as_chief(strategy, model, done, fingerprint):
    """Gives all workers the chief's state of the model and its number of epochs, if they have the same to do."""
    variables = [*model.weights, *model.optimizer.variables]
    numbers, *values = workers.of_chief(strategy, [tf.constant([done, fingerprint], tf.int64), *variables])
    done, expected = numbers.numpy()
    if fingerprint != expected:
        raise UserError("The settings or the images of this worker are not the chief's: give all workers the same.")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return int(done)


def _fingerprint(config, images):
    """A number that two workers have in common if they are to do the same."""
    number = zlib.crc32(repr(config.model_dump(exclude=FREE_TO_CHANGE)).encode())
    for split in images:
        number = zlib.crc32(split, number)
    return number


def learning_rate_schedule(config):
    """Makes the callback that sets the learning rate of each epoch (Table 7).

    Args:
        config: `TrainConfig`.

    Returns:
        `keras.callbacks.LearningRateScheduler`.
    """
    rates = config.model_dump(include={"epochs", "warmup_epochs", "learning_rate", "end_learning_rate"})
    return keras.callbacks.LearningRateScheduler(lambda epoch, _: learning_rate_at(epoch, **rates))


def _callbacks(folder, model, images, done, chief):
    """The callbacks of a run, in the order in which they must see the end of an epoch; the chief's write."""
    config = folder.config
    averaged = DVPVAE.from_config(model.get_config())
    callbacks = [learning_rate_schedule(config), StopWhenNotFinite(folder), TakeAverage(averaged)]
    if chief:
        callbacks += [
            SaveModels(folder, averaged, folder.best_so_far(done)),
            TensorBoardPictures(folder, averaged, images, config.picture_every_epochs),
            keras.callbacks.TensorBoard(folder.tensorboard, write_graph=False),
            keras.callbacks.CSVLogger(folder.metrics, append=True),
            LogGradientNorms(folder),
            SaveCheckpoint(folder),
        ]
    if not config.validate_raw_weights:
        callbacks.insert(0, keras.callbacks.SwapEMAWeights())
    if config.early_stopping_epochs:
        callbacks.append(keras.callbacks.EarlyStopping(MONITORED, patience=config.early_stopping_epochs))
    return callbacks


def _report(folder, test):
    """Evaluates the best model on the test set and draws its pictures."""
    model = load_model(folder.best)
    pictures.save(folder.path / "samples.png", pictures.samples(model))
    pictures.save(folder.path / "reconstructions.png", pictures.reconstructions(model, test[:10]))
    return evaluation.negative_elbo(model, evaluation_batches(test, folder.config.batch_size))
