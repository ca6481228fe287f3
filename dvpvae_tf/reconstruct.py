"""The command `python -m dvpvae_tf.reconstruct`: what u and the latents of each scale keep of an image (Figure 4)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dvpvae_tf.command_line.options import add_data_arguments, add_model_arguments, add_temperature_argument, count
from dvpvae_tf.config.parser import Parser
from dvpvae_tf.config.temperatures import LOW_TEMPERATURE
from dvpvae_tf.errors import UserError, exit_on_error
from dvpvae_tf.files import check_output, write_atomically

if TYPE_CHECKING:
    import numpy as np

    from dvpvae_tf.models import DVPVAE

MOST_COLUMNS = 100


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Returns:
        `argparse.Namespace` with what `add_model_arguments` and `add_data_arguments` add, `num`, `first`,
        `interpolate`, `temperature` and `output`.

    Raises:
        UserError: if an option is unknown, missing or out of its range.
    """
    parser = Parser(
        "reconstruct",
        "Reconstruct images from u alone, then with the latents of ever more scales; or go from one image to another.",
    )
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--num", type=count, default=10, help="columns of the picture (default: %(default)s)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--first", type=int, help="index of the first image in the split (default: 0, the first)")
    which.add_argument(
        "--interpolate", nargs=2, type=int, metavar=("I", "J"), help="go from image I of the split to image J"
    )
    add_temperature_argument(parser, LOW_TEMPERATURE)
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the picture to write, .png")
    return parser.parse_args(argv)


@exit_on_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can put right.
    """
    arguments = parse_arguments(argv)
    _check_sizes(arguments)
    from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401  isort: skip
    from dvpvae_tf import pictures
    from dvpvae_tf.command_line.inputs import model_of

    model = model_of(arguments)
    rows = (_interpolation if arguments.interpolate else _reconstructions)(arguments, model)
    write_atomically(arguments.output, lambda path: pictures.save(path, list(rows.values())))
    print(f"wrote {arguments.output}")


def _check_sizes(arguments: argparse.Namespace) -> None:
    check_output(arguments.output, [".png"])
    least = 2 if arguments.interpolate else 1
    if not least <= arguments.num <= MOST_COLUMNS:
        raise UserError(f"--num is {arguments.num}: give a number of columns from {least} to {MOST_COLUMNS}")


def _reconstructions(arguments: argparse.Namespace, model: DVPVAE) -> dict[str, np.ndarray]:
    from dvpvae_tf import pictures

    first = arguments.first or 0
    images = _images(arguments, model, range(first, first + arguments.num))
    rows = pictures.partial_reconstructions(model, images, arguments.temperature, arguments.seed)
    print(f"Rows: what is inferred; the rest is drawn from the prior, at temperature {arguments.temperature}")
    _print_names(rows)
    return rows


def _interpolation(arguments: argparse.Namespace, model: DVPVAE) -> dict[str, np.ndarray]:
    from dvpvae_tf import pictures

    first, second = _images(arguments, model, arguments.interpolate)
    rows = pictures.interpolation(model, first, second, arguments.num, arguments.temperature, arguments.seed)
    print(f"Rows: what is interpolated; z of row u is drawn from the prior, at temperature {arguments.temperature}")
    _print_names(rows)
    return rows


def _images(arguments: argparse.Namespace, model: DVPVAE, indices: Sequence[int]) -> np.ndarray:
    from dvpvae_tf.command_line.inputs import read_split_of, split_name

    images, _ = read_split_of(arguments, model)
    if not 0 <= min(indices) <= max(indices) < len(images):
        asked = f"{indices[0]} to {indices[-1]}"
        raise UserError(f"images {asked} asked for, but the {split_name(arguments)} split has 0 to {len(images) - 1}")
    return images[list(indices)]


def _print_names(rows: dict[str, np.ndarray]) -> None:
    for number, name in enumerate(rows, 1):
        print(f"{number:3} {name}")


if __name__ == "__main__":
    main()
