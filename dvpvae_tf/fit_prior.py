"""The command `python -m dvpvae_tf.fit_prior`: gives a trained model a better prior over u."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dvpvae_tf.command_line.options import add_dataset_arguments, add_model_arguments, count
from dvpvae_tf.config.parser import Parser
from dvpvae_tf.errors import UserError, exit_on_error
from dvpvae_tf.files import check_output, write_atomically

if TYPE_CHECKING:
    from dvpvae_tf.data.pipelines import LoadedDataset
    from dvpvae_tf.models import DVPVAE


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Returns:
        The options, with `prior`, `steps`, `labels`, `output` and `overwrite`.

    Raises:
        UserError: if an option is unknown, missing or out of its range.
    """
    parser = Parser(
        "fit_prior",
        "Fit the prior over u to a trained model, whose other weights stay as they are. Training images are fitted, "
        "validation images choose.",
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--prior",
        choices=("full_mixture", "diffusion", "calibrated"),
        default="full_mixture",
        help="full_mixture: Gaussians with full covariances. diffusion: trains a network for minutes, the model's own "
        "if it has one, then calibrates it; after a stop the same command continues. calibrated: keeps the model's "
        "diffusion network and chooses the covariances and times of its steps (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=count,
        metavar="T",
        help="steps of the diffusion prior (default: the fewest that cost at most 0.2 nats more than 50 steps)",
    )
    parser.add_argument(
        "--labels",
        action="store_true",
        help="fit a full mixture for each class, so that `sample --label` can ask for one. Labels are those of the "
        "data set, or the class subfolders of folder:",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.keras", help="the model with its new prior")
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")
    add_dataset_arguments(parser)
    arguments = parser.parse_args(argv)
    if arguments.steps and arguments.prior == "full_mixture":
        parser.error("--steps is for --prior diffusion and calibrated")
    if arguments.labels and arguments.prior != "full_mixture":
        parser.error("--labels is for --prior full_mixture")
    return arguments


def fit_prior(arguments: argparse.Namespace) -> DVPVAE:
    """Fits the prior that the arguments name.

    Args:
        arguments: see `parse_arguments`.

    Returns:
        The model with it.

    Raises:
        UserError: for a mistake that the user can put right.
    """
    import keras

    from dvpvae_tf.command_line.inputs import dataset_of, model_of
    from dvpvae_tf.models.refit import with_diffusion_prior, with_full_mixture
    from dvpvae_tf.priors import DiffusionPrior
    from dvpvae_tf.priors.calibration import NOT_CALIBRATED
    from dvpvae_tf.priors.process import GRID_TIMES, check_calibrated_steps

    check_calibrated_steps(arguments.steps)
    model = model_of(arguments)
    if model.pseudoinput is None:
        raise UserError(f"{arguments.model} has no pseudoinputs, so it has no prior over them: take another model")
    if arguments.prior == "calibrated" and not isinstance(model.prior, DiffusionPrior):
        raise UserError(f"--prior calibrated is for models with a diffusion prior, and {arguments.model} has none")
    data = dataset_of(arguments, model, "train", "validation", labels=arguments.labels, to_fit=True)
    if arguments.labels:
        return _fit_labels(model, data, arguments.seed)
    training, validation, _ = data.images
    if arguments.prior == "full_mixture":
        return with_full_mixture(model, training, validation, arguments.seed)
    if arguments.prior == "diffusion":
        keras.utils.set_random_seed(arguments.seed)  # the starting weights of a new network
        return with_diffusion_prior(
            model, training, validation, arguments.steps, seed=arguments.seed, backup=_backup_of(arguments)
        )
    print(f"Estimating the covariances at {len(GRID_TIMES)} times")
    found = model.calibrate(training, validation, arguments.steps, arguments.seed, verbose=1)
    if found is None:
        raise UserError(NOT_CALIBRATED)
    print(f"T = {found.steps} steps from now on; covariances moved {found.shrinkage:.1%} towards their diagonals")
    return model


def _backup_of(arguments: argparse.Namespace) -> Path:
    """The file that keeps the training of a diffusion prior until the output is written."""
    return arguments.output.with_suffix(".keras.backup")


def _fit_labels(model: DVPVAE, data: LoadedDataset, seed: int) -> DVPVAE:
    """The model with a mixture for each class; prints how well it knows the labels of test images."""
    from dvpvae_tf import evaluation
    from dvpvae_tf.models.refit import count_classes, with_labelled_mixture

    (train, validation, test), labels = data.images, data.labels
    assert labels is not None  # they were asked for
    count_classes(labels, data.classes)
    labelled = with_labelled_mixture(model, train, labels[0], validation, labels[1], seed, class_names=data.classes)
    print(evaluation.score_labels(labelled, test, labels[2], seed=seed))
    return labelled


@exit_on_error("with --prior diffusion the same command goes on after the last finished epoch")
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can put right.
    """
    arguments = parse_arguments(argv)
    check_output(arguments.output, [".keras"], arguments.overwrite)
    from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401  isort: skip

    write_atomically(arguments.output, fit_prior(arguments).save)
    if arguments.prior == "diffusion":
        _backup_of(arguments).unlink(missing_ok=True)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
