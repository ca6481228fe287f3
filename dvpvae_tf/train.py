"""The command `python -m dvpvae_tf.train`: trains a model on a data set; `--help` lists all settings.

TensorFlow is imported after the command line is parsed, so that `--help` and mistakes come at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dvpvae_tf.config import NAMED_DATASETS, TrainConfig, ema_momentum_for, settings_as_yaml
from dvpvae_tf.config.temperatures import PICTURE_PRIOR_TEMPERATURE, PICTURE_TEMPERATURE
from dvpvae_tf.config.train_arguments import TrainArguments, limit_batch_size, parse_train_arguments
from dvpvae_tf.errors import exit_on_error

if TYPE_CHECKING:
    from dvpvae_tf.data.pipelines import LoadedDataset
    from dvpvae_tf.models import DVPVAE

TO_GO_ON = "the same command goes on after the last finished epoch"
TIMED_STEPS = 2


@exit_on_error(TO_GO_ON)
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can put right.
    """
    arguments = parse_train_arguments(argv)
    if arguments.options.dry_run:
        plan(arguments)
    else:
        train(arguments)


def train(arguments: TrainArguments) -> None:
    """Trains the model, prints its plan before and its bound on the test set after that.

    Args:
        arguments: the parsed command line.

    Raises:
        UserError: for every mistake that the user can put right.
        WorkerLost: if another machine fails.
    """
    from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401  isort: skip
    from dvpvae_tf import training
    from dvpvae_tf.distribute.strategies import make_strategy

    # Machines must be connected before TensorFlow does anything, such as reading the data.
    strategy = make_strategy(arguments.settings)
    data = _read(arguments.settings)
    images = data.images
    config = arguments.resolve(images[0].shape[1:])

    def announce(model: DVPVAE, config: TrainConfig) -> None:
        _print_plan(config, model, len(images[0]))
        print("Before its first step TensorFlow traces the model, which takes up to some minutes.", flush=True)

    classes = None if data.labels is None else training.Classes(data.labels, data.classes)
    bound = training.train(
        config, images, arguments.options.resume, strategy=strategy, announce=announce, classes=classes
    )
    if bound is not None:
        _print_bound(config, bound)


def plan(arguments: TrainArguments) -> None:
    """Prints the settings of a run, its size, and the time and memory that it takes, measured in a few steps.

    The images of a data set of known size are not read.

    Args:
        arguments: the parsed command line.

    Raises:
        UserError: for every mistake that the user can put right.
    """
    from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401
    from dvpvae_tf.training import make_model

    dataset = NAMED_DATASETS.get(arguments.settings.dataset)
    if dataset is None:
        images = _read(arguments.settings).images[0]
        shape, training_images = images.shape[1:], len(images)
    else:
        shape, training_images = dataset.image_shape, dataset.training_images
    config = limit_batch_size(arguments.resolve(shape), training_images)
    model = make_model(config, training_images // config.batch_size)
    _print_plan(config, model, training_images)
    _print_costs(config, model, training_images)


def _read(settings: TrainConfig) -> LoadedDataset:
    from dvpvae_tf.data.pipelines import read_dataset

    return read_dataset(**settings.source, labels=settings.labels)


def _print_plan(config: TrainConfig, model: DVPVAE, training_images: int) -> None:
    steps_per_epoch = training_images // config.batch_size
    steps = steps_per_epoch * config.epochs
    print(settings_as_yaml(config))
    print(f"Trainable parameters: {model.num_parameters:,}")
    print(f"Steps: {config.epochs} epochs of {steps_per_epoch} steps of {config.batch_size} images, {steps:,} in all")
    print(f"EMA momentum: {ema_momentum_for(steps, config.ema_momentum):.4g}", flush=True)


def _print_costs(config: TrainConfig, model: DVPVAE, training_images: int) -> None:
    """Takes a few steps on random images."""
    import numpy as np

    from dvpvae_tf.experiments.costs import peak_memory, time_training_steps

    print("Measuring a step, which takes up to some minutes (Ctrl-C ends this) ...", flush=True)
    rows = max(config.batch_size, config.model.vamp_components)
    images = np.random.default_rng(0).integers(0, 256, (rows, *model.image_shape), "uint8")
    model.adapt(images)
    first, *others = time_training_steps(model, images[: config.batch_size], 1 + TIMED_STEPS)
    steps = training_images // config.batch_size * config.epochs
    seconds = first - min(others) + steps * min(others)
    print(f"Time on this machine: {first:.0f} s for the first step, {min(others):.2g} s for each other one; ", end="")
    print(f"{_as_time(seconds)} for all, without validation and pictures")
    print(f"Peak memory: {peak_memory() / 1e9:.1f} GB")


def _as_time(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _print_bound(config: TrainConfig, bound: dict) -> None:
    from dvpvae_tf.evaluation.results import plus_minus

    names = {"reconstruction": "reconstruction", "kl_z": "KL of z", "kl_u": "KL of u"}
    terms = ", ".join(f"{name} {bound[key]['mean']:.2f}" for key, name in names.items())
    of_labels = f"{bound['of_labels']}\n" if "of_labels" in bound else ""
    process = "" if bound["steps"] is None else f", T = {bound['steps']}, {bound['process']}"
    print(
        f"Test negative ELBO{process}: {plus_minus(bound['nats'])} nats, "
        f"{plus_minus(bound['bits_per_dim'], 4)} bits per dimension\n"
        f"  {terms} nats; {bound['images']} images, one draw of the noise each, seed {config.seed}, EMA weights of the "
        "best epoch\n"
        f"{of_labels}Model, metrics and pictures (samples at temperature {PICTURE_TEMPERATURE}, of the prior over u "
        f"{PICTURE_PRIOR_TEMPERATURE}): {config.output}/{config.name}"
    )


if __name__ == "__main__":
    main()
