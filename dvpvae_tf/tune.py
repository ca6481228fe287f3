"""The command `python -m dvpvae_tf.tune`: searches for better settings with KerasTuner.

The same command goes on with a search that was stopped. How several machines share one: `dvpvae_tf.tuning.search`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dvpvae_tf.command_line.options import add_source_arguments, count, whole_number
from dvpvae_tf.config import DEFAULT_DATASET, TrainConfig
from dvpvae_tf.config.parser import Parser
from dvpvae_tf.config.settings import SOURCE_SETTINGS
from dvpvae_tf.config.train_arguments import limit_batch_size, parse_train_arguments
from dvpvae_tf.errors import UserError, exit_on_error
from dvpvae_tf.files import lock_folder, make_folder
from dvpvae_tf.tuning.space import read_space

if TYPE_CHECKING:
    import tensorflow as tf

TUNERS = ("hyperband", "bayesian", "random")
COUNTED = "Failed trials count, and so does each continuation that Hyperband makes of an earlier trial."
SEVERAL_MACHINES = (
    "To share a search among machines that share the output folder, start the same command on each with "
    "KERASTUNER_TUNER_ID, KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT set: the one whose ID is chief listens "
    "there, hands out the trials and trains none; each worker has an ID of its own."
)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Returns:
        The options; `space` is the `Space` of the file.

    Raises:
        UserError: if an option is unknown or a value is wrong.
    """
    description = "Search for better settings; the same command goes on after a stop."
    parser = Parser("tune", description, epilog=f"{COUNTED} {SEVERAL_MACHINES}")
    parser.add_argument(
        "--dataset", help=f"data set, as in training (default: the one in --base, or {DEFAULT_DATASET})"
    )
    parser.add_argument("--base", metavar="CONFIG", help="preset or YAML file with the settings that are not searched")
    parser.add_argument(
        "--space", metavar="FILE", help="YAML file with the ranges to search (default: configs/tuning.yaml)"
    )
    parser.add_argument("--tuner", choices=TUNERS, default="random", help="search algorithm (default: %(default)s)")
    parser.add_argument("--max-trials", type=count, default=12, help="number of trials (default: %(default)s)")
    parser.add_argument(
        "--max-parameters", type=count, help="the most trainable parameters of a model; larger ones are not drawn"
    )
    parser.add_argument(
        "--epochs",
        type=count,
        help="epochs of a trial (default: as in the config; a folder has 300 in grey, 3,000 in colour)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("tuning"), help="folder for the results (default: %(default)s)"
    )
    parser.add_argument("--seed", type=whole_number, help="seed of search and training (default: as in the config)")
    add_source_arguments(parser)
    arguments = parser.parse_args(argv)
    arguments.space = read_space(arguments.space)
    return arguments


def search(arguments: argparse.Namespace) -> Path | None:
    """Runs a search, or a part of it as chief or worker.

    Args:
        arguments: the parsed command line.

    Returns:
        Path of `best.yaml`; None in a worker, where the chief writes it.

    Raises:
        UserError: for a mistake that the user can put right, another process that searches in the same folder, or where
            no trial was completed.
    """
    of_training = ("dataset", "epochs", "seed", *sorted(SOURCE_SETTINGS))
    options = {name: getattr(arguments, name) for name in of_training} | {"config": arguments.base}
    flags = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in options.items()
        if value is not None and value is not True
    ]
    flags += ["--skip-broken"] * bool(arguments.skip_broken)
    of_trials = parse_train_arguments(flags)

    from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401
    from dvpvae_tf.data.pipelines import evaluation_batches, read_images, training_batches
    from dvpvae_tf.tuning.search import is_worker

    data = of_trials.settings
    images = read_images(**data.source)
    config = limit_batch_size(of_trials.resolve(images[0].shape[1:]), len(images[0]))
    train = training_batches(images[0], config.batch_size, config.seed, config.horizontal_flip)
    validation = evaluation_batches(images[1], config.batch_size)
    if is_worker():  # the chief has the lock
        return _search(arguments, config, train, validation)
    make_folder(arguments.output)
    with lock_folder(arguments.output):
        return _search(arguments, config, train, validation)


def _search(
    arguments: argparse.Namespace, config: TrainConfig, train: tf.data.Dataset, validation: tf.data.Dataset
) -> Path | None:
    from dvpvae_tf.tuning.report import write_results
    from dvpvae_tf.tuning.search import is_worker, make_tuner

    tuner = make_tuner(
        train,
        config,
        arguments.space,
        tuner=arguments.tuner,
        max_trials=arguments.max_trials,
        output=arguments.output,
        max_parameters=arguments.max_parameters,
    )
    try:
        tuner.search(train, validation_data=validation)
    except RuntimeError as error:
        if "bind" not in str(error):
            raise
        raise UserError(f"the chief cannot listen there: {error}") from error
    return None if is_worker() else write_results(tuner)


@exit_on_error("the same command goes on with the trial that was running")
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can put right.
    """
    best = search(parse_arguments(argv))
    if best is None:
        print("no trials are left; the chief writes the results")
    else:
        print((best.parent / "results.md").read_text(encoding="utf-8"))
        print(f"train with --config {best}; beside it: results.md, results.csv and parallel_coordinates.png")


if __name__ == "__main__":
    main()
