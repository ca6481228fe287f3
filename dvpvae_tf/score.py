"""The command `python -m dvpvae_tf.score`: how probable and how typical each image is under a model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dvpvae_tf.command_line.options import (
    add_data_arguments,
    add_model_arguments,
    add_process_arguments,
    count,
    count_or_all,
)
from dvpvae_tf.config.datasets import options_of
from dvpvae_tf.config.parser import Parser
from dvpvae_tf.config.settings import SOURCE_SETTINGS
from dvpvae_tf.errors import UserError, exit_on_error
from dvpvae_tf.files import check_output, write_csv

if TYPE_CHECKING:
    import numpy as np

    from dvpvae_tf.models import DVPVAE

FEWEST_REFERENCES = 20


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Returns:
        The options, with `samples`, `steps`, `ancestral`, `reference`, `references`, `limit`, `batch_size` and
        `output`.

    Raises:
        UserError: if an option is unknown, missing or out of its range.
    """
    parser = Parser(
        "score",
        "Write a table with a row for each image: `nats`, the bound on -log p(x) (iwae), and `bits_per_dim`, each with "
        "its standard error over the draws; and `typicality`, about 1 for images like the validation images of "
        "--reference, higher for others.",
    )
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument(
        "--samples",
        type=count,
        default=10,
        metavar="K",
        help="draws of the latents for each image (default: %(default)s)",
    )
    add_process_arguments(parser)
    parser.add_argument("--reference", metavar="DATASET", help="data set of typical images (default: the run's)")
    parser.add_argument(
        "--references",
        type=count,
        default=500,
        metavar="N",
        help="validation images of --reference that say what is typical (default: %(default)s)",
    )
    parser.add_argument("--limit", type=count_or_all, metavar="N", help="score only the first N images (default: all)")
    parser.add_argument(
        "--batch-size", type=count, default=500, help="images times draws in a batch (default: %(default)s)"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.csv", help="the table to write")
    arguments = parser.parse_args(argv)
    if arguments.references < FEWEST_REFERENCES:
        parser.error(f"--references is {arguments.references}: give {FEWEST_REFERENCES} or more")
    return arguments


@exit_on_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can put right.
    """
    arguments = parse_arguments(argv)
    check_output(arguments.output, [".csv"])
    from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401  isort: skip
    from dvpvae_tf.command_line.inputs import model_with_process_of

    model = model_with_process_of(arguments)
    images, names, typical = _read(arguments, model)
    rows = score_rows(arguments, model, images, names or [*range(len(images))], typical)
    write_csv(arguments.output, rows)
    mean = sum(float(row["bits_per_dim"]) for row in rows) / len(rows)
    print(f"wrote {arguments.output}: {len(rows)} images, {mean:.4f} bits per dimension on average")


def _read(arguments: argparse.Namespace, model: DVPVAE) -> tuple[np.ndarray, list[str] | None, np.ndarray]:
    """The images to score, the names of their files, and typical images; one data set is read once."""
    from dvpvae_tf.command_line.inputs import data_settings, dataset_of, read_split_of, split_of

    arguments, of_reference = _split_options(arguments)
    settings = data_settings(arguments)
    try:
        same = data_settings(of_reference) == settings
        reference = dataset_of(of_reference, model, "validation")
    except UserError as error:
        if arguments.reference is not None:
            raise
        raise UserError(f"{error}; or give --reference a data set of typical images") from error
    images, names = read_split_of(arguments, model, data=reference if same else None)
    typical = split_of(reference, "validation")[0][: arguments.references]
    if len(typical) < FEWEST_REFERENCES:
        raise UserError(
            f"there are {len(typical)} validation images of {data_settings(of_reference)['name']} to compare with: "
            f"give --reference a data set with {FEWEST_REFERENCES} or more"
        )
    return images[: arguments.limit], names, typical


def _split_options(arguments: argparse.Namespace) -> tuple[argparse.Namespace, argparse.Namespace]:
    """The arguments for the images to score, and for the typical ones: each without options for the other alone."""
    from dvpvae_tf.command_line.inputs import trained_on_data

    changes: tuple[dict, dict] = ({}, {"dataset": arguments.reference, "image_size": None})
    pair = [argparse.Namespace(**vars(arguments) | change) for change in changes]
    names = [each.dataset or trained_on_data(arguments.model) for each in pair]
    taken = [options_of(name) if name else SOURCE_SETTINGS for name in names]
    for each, own, others in zip(pair, taken, reversed(taken), strict=True):
        for option in others - own:
            setattr(each, option, None)
    return pair[0], pair[1]


def score_rows(
    arguments: argparse.Namespace,
    model: DVPVAE,
    images: np.ndarray,
    names: Sequence[str | int],
    typical: np.ndarray,
) -> list[dict[str, str | int | float]]:
    """Scores images, and typical ones to compare them with.

    Args:
        arguments: see `parse_arguments`.
        model: the model that they name.
        images: uint8 `[N, D, D, C]`.
        names: of these images, N or more.
        typical: uint8 `[R, D, D, C]`.

    Returns:
        The rows of the table.

    Raises:
        UserError: if a score is not finite.
    """
    import numpy as np

    from dvpvae_tf import evaluation

    print(f"scoring {len(images)} images and {len(typical)} typical ones", flush=True)
    settings = arguments.samples, arguments.steps, arguments.seed, arguments.batch_size
    scores = evaluation.score(model, images, *settings)
    if not np.isfinite(scores.nats).all():
        raise UserError(f"the scores of {arguments.model} are not finite: take another model")
    distances = evaluation.typicality(scores.terms, evaluation.score(model, typical, *settings).terms)
    bits = model.bits_per_nat
    return [
        {
            "image": name,
            "nats": nats,
            "nats_error": error,
            "bits_per_dim": nats * bits,
            "bits_per_dim_error": error * bits,
            "typicality": distance,
        }
        for name, nats, error, distance in zip(names, scores.nats, scores.errors, distances, strict=False)
    ]


if __name__ == "__main__":
    main()
