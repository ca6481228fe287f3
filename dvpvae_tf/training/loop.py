"""One training run, from its config to the files it leaves in its folder."""

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from dvpvae_tf import evaluation, pictures
from dvpvae_tf.config import TrainConfig, ema_momentum_for
from dvpvae_tf.config.train_arguments import limit_batch_size
from dvpvae_tf.data.pipelines import evaluation_batches, share_of_worker, training_batches
from dvpvae_tf.distribute import workers
from dvpvae_tf.distribute.sharding import fingerprint
from dvpvae_tf.distribute.strategies import make_strategy
from dvpvae_tf.errors import UserError, full_disk_in
from dvpvae_tf.files import write_atomically, write_json
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.models.build import build_model
from dvpvae_tf.models.loading import load_model
from dvpvae_tf.models.refit import (
    count_classes,
    with_ancestral_process,
    with_full_mixture,
    with_labelled_mixture,
    with_prior,
)
from dvpvae_tf.optimizers import FusedAdamax
from dvpvae_tf.priors import DiffusionPrior, FullMixturePrior
from dvpvae_tf.priors.calibration import NOT_CALIBRATED
from dvpvae_tf.priors.process import check_calibrated_steps
from dvpvae_tf.training.callbacks import (
    FollowProgress,
    LogEpochs,
    SaveEpoch,
    StopWhenNotFinite,
    TakeAverage,
    TensorBoardPictures,
    learning_rate_schedule,
)
from dvpvae_tf.training.run_folder import FREE_TO_MOVE, Progress, RunFolder


class Classes(NamedTuple):
    """The labels of the training, validation and test images, int `[N]`, and the names of the classes, or none."""

    labels: Sequence[np.ndarray]
    names: Sequence[str]


def make_model(config: TrainConfig, steps_per_epoch: int) -> DVPVAE:
    """Builds and compiles the model of a run, with the prior that it is trained with.

    Args:
        config: the settings of the run.
        steps_per_epoch: optimizer steps of one epoch, at least 1.

    Returns:
        The model, compiled, its optimizer built.
    """
    keras.utils.set_random_seed(config.seed)
    dtype = "mixed_bfloat16" if config.mixed_precision else "float32"
    with _rematerialization(config):
        model = build_model(config.model, seed=config.seed, dtype=dtype)
    optimizer = FusedAdamax(
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


def initialize(model: DVPVAE, config: TrainConfig, images: np.ndarray) -> None:
    """Prepares a new model for its first step.

    Args:
        model: the model. It is adapted to the images, or takes all weights of the model of `config.init_from`.
        config: the settings of the run.
        images: uint8 array `[N, D, D, C]`, the training images.

    Raises:
        UserError: if the model of `config.init_from` cannot be read or has another architecture.
    """
    if config.init_from is None:
        model.adapt(images)
        return
    source = with_ancestral_process(load_model(config.init_from))
    if model.prior is not None and isinstance(source.prior, FullMixturePrior):
        source = with_prior(source, model.prior)  # the mixture was not trained, so it is not trained on
    if [weight.shape for weight in source.weights] != [weight.shape for weight in model.weights]:
        raise UserError(
            f"The weights of {config.init_from} are for a model with other settings: give those with --config, such as "
            f"{config.init_from}/config.yaml."
        )
    model.set_weights(source.get_weights())


def train(
    config: TrainConfig,
    images: Sequence[np.ndarray],
    resume: bool = False,
    verbose: str | int = "auto",
    strategy: tf.distribute.Strategy | None = None,
    announce: Callable[[DVPVAE, TrainConfig], None] = lambda model, config: None,
    classes: Classes | None = None,
) -> dict | None:
    """Trains a model, from where an earlier run of the same settings stopped, and leaves its results in the run folder.

    Of several machines the chief alone reads and writes that folder, and prints.

    Args:
        config: the settings of the run, with a name.
        images: uint8 arrays `[N, D, D, C]` of the training, validation and test split.
        resume: whether there must be a checkpoint to go on from.
        verbose: "auto", 0, 1 or 2, as in `keras.Model.fit`.
        strategy: what `make_strategy(config)` has given, or None to call it here.
        announce: called on the chief before training, with the model and its settings: the batch may be smaller than
            that of `config`.
        classes: the labels of the images; needed where `config.labels` is set.

    Returns:
        What `dvpvae_tf.evaluation.negative_elbo` returns for the best model on the test set, its prior calibrated or
        fitted; where `config.labels` is set, what `score_labels` returns under "of_labels", too. None on a machine
        that is not the chief.

    Raises:
        UserError: for every mistake that the user can put right.
        WorkerLost: if another machine fails.
    """
    strategy = strategy or make_strategy(config)
    config = limit_batch_size(config, len(images[0]))
    devices, parts = strategy.num_replicas_in_sync, config.gradient_accumulation
    if config.batch_size % (devices * parts):
        raise UserError(
            f"--batch-size {config.batch_size} has no {parts} equal parts on each of {devices} devices: change it, or "
            "--gradient-accumulation."
        )
    if config.model.pseudoinput != "none" and config.model.prior_in_training == "diffusion":
        check_calibrated_steps(config.model.diffusion_steps)  # as the prior is calibrated in the end
    if config.labels:
        if classes is None:
            raise ValueError("The setting labels needs the labels of the images.")
        count_classes(*classes)
    folder = RunFolder(config)
    chief = workers.is_chief(strategy)
    with folder.open(resume, images) if chief else contextlib.nullcontext():
        with workers.raise_worker_lost(), _raise_disk_full(folder):
            model = _make_on_all_devices(config, images, strategy)
            if chief:
                announce(model, config)
            _fit(model, folder, images, chief, verbose if chief else 0)
        return _report(folder, images, classes) if chief else None


@contextlib.contextmanager
def _raise_disk_full(folder):
    """Turns TensorFlow's error of a full disk, which TensorBoard's files meet, into a `UserError`."""
    try:
        yield
    except tf.errors.OpError as error:
        full = full_disk_in(error)
        if full is None:
            raise
        raise UserError(f"cannot write to {folder.path}: {full}: make room and run the same command again") from error


def _make_on_all_devices(config, images, strategy):
    with strategy.scope():
        return make_model(config, len(images[0]) // config.batch_size)


def _fit(model, folder, images, chief, verbose):
    """Trains the epochs that are not done yet."""
    config, (training, validation, _) = folder.config, images
    strategy = model.distribute_strategy

    def shared_out(batches):
        return strategy.distribute_datasets_from_function(
            lambda context: share_of_worker(batches, config.batch_size, context)
        )

    # Outside the strategy's scope: there Keras, as it reads weights, makes variables that all workers must make.
    done, progress = folder.restore(model) if chief else (0, Progress())
    if chief and done == 0:
        initialize(model, config, training)
    if config.strategy == "multiworker":
        done, progress = _begin_as_chief(strategy, model, done, progress, _checksum(config, images))
    stopper = StopWhenNotFinite(folder)
    follower = FollowProgress(progress, stopper, config.early_stopping_epochs)
    if done >= config.epochs or follower.is_exhausted(done):
        return
    model.fit(
        shared_out(
            training_batches(training, config.batch_size, config.seed, config.horizontal_flip, first_epoch=done)
        ),
        validation_data=shared_out(evaluation_batches(validation, config.batch_size)),
        initial_epoch=done,
        epochs=config.epochs,
        steps_per_epoch=len(training) // config.batch_size,
        validation_steps=math.ceil(len(validation) / config.batch_size),
        callbacks=_callbacks(folder, model, validation[:200], stopper, follower, chief),
        verbose=verbose,
    )


def _begin_as_chief(strategy, model, done, progress, checksum):
    """Gives all workers the chief's state of the model and its progress, if they have the same to do."""
    variables = [*model.weights, *model.optimizer.variables]
    numbers = tf.constant([done, progress.best_epoch, checksum], tf.int64)
    numbers, best, *values = workers.broadcast_from_chief(
        strategy, [numbers, tf.constant(progress.best, tf.float64), *variables]
    )
    done, best_epoch, expected = numbers.numpy()
    if checksum != expected:
        raise UserError("The settings or the images of this worker are not the chief's: give all workers the same.")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return int(done), Progress(float(best), int(best_epoch))


def _checksum(config, images):
    """A checksum of settings and images. Workers with the same task have the same one."""
    settings = repr(config.model_dump(exclude=FREE_TO_MOVE)).encode()
    return fingerprint([np.frombuffer(settings, np.uint8), *images])


def _callbacks(folder, model, images, stopper, follower, chief):
    """The callbacks of a run, in the order in which they must see the end of an epoch; the chief's write."""
    config = folder.config
    averaged = DVPVAE.from_config(model.get_config())
    callbacks = [learning_rate_schedule(config), stopper, TakeAverage(averaged), follower]
    if chief:
        callbacks += [
            TensorBoardPictures(folder, averaged, images, config.picture_every_epochs),
            keras.callbacks.TensorBoard(folder.tensorboard, write_graph=False),
            LogEpochs(folder),
            SaveEpoch(folder, averaged, follower),
        ]
    if not config.validate_raw_weights:
        callbacks.insert(0, keras.callbacks.SwapEMAWeights())
    return callbacks


def _fit_final_prior(folder, images, classes):
    """Gives the best model its final prior, once, or again where the settings have another T now.

    A diffusion prior is calibrated, or a full mixture takes its place where `config.model.prior` asks for that: see
    `ModelConfig.prior_in_training`. Other priors are final as they are trained.

    Returns:
        The best model, also written to its file.
    """
    model, config, (training, validation, _) = load_model(folder.best), folder.config, images
    if not isinstance(model.prior, DiffusionPrior):
        return model
    if model.prior.calibrated_steps is not None:
        if config.model.diffusion_steps in (None, model.prior.calibrated_steps):
            return model
        _calibrate(model, folder, training, validation)
    elif config.labels:
        print(f"Fitting a prior over u for each class of {folder.best}")
        labels, validation_labels, _ = classes.labels
        model = with_labelled_mixture(
            model, training, labels, validation, validation_labels, config.seed, class_names=classes.names
        )
    elif config.model.prior == "full_mixture":
        print(f"Fitting the prior over u of {folder.best}")
        try:
            model = with_full_mixture(model, training, validation, config.seed)
        except UserError as error:
            print(f"{error} The model keeps its diffusion prior")
            _calibrate(model, folder, training, validation)
    else:
        _calibrate(model, folder, training, validation)
    write_atomically(folder.best, model.save)
    return model


def _calibrate(model, folder, training, validation):
    print(f"Calibrating the prior over u of {folder.best}")
    steps = folder.config.model.diffusion_steps
    if model.calibrate(training, validation, steps, folder.config.seed, verbose=1) is None:
        print(f"{NOT_CALIBRATED}. It keeps the ancestral process")


def _report(folder, images, classes):
    """Gives the best model its final prior, draws its pictures, and writes its bound on the test set."""
    folder.check_best()
    model, test = _fit_final_prior(folder, images, classes), images[2]
    rows_of = {"samples": pictures.samples(model), "reconstructions": pictures.reconstructions(model, test[:10])}
    for name, rows in rows_of.items():
        write_atomically(folder.path / f"{name}.png", functools.partial(pictures.save, rows=rows))
    bound = evaluation.negative_elbo(model, test, folder.config.batch_size)
    write_json(folder.test_bound, bound)
    if folder.config.labels:
        bound["of_labels"] = evaluation.score_labels(model, test, classes.labels[2], seed=folder.config.seed)
    return bound
