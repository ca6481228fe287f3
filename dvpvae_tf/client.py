"""The command `python -m dvpvae_tf.client`: draws images from a served model."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dvpvae_tf.command_line.options import (
    add_pixels_argument,
    add_samples_output,
    add_temperature_argument,
    check_samples_output,
    count,
    whole_number,
)
from dvpvae_tf.config.parser import Parser
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.files import write_atomically

if TYPE_CHECKING:
    from dvpvae_tf.models import Samples

MOST_SECONDS = 24 * 60 * 60


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Returns:
        Namespace with `url`, `num`, `seed`, `temperature`, `pixels`, `label`, `batch_size`, `timeout`, `retries` and
        `output`.

    Raises:
        UserError: if an option is unknown, missing or out of its range.
    """
    parser = Parser("client", "Draw images from a served model. Image i has the seed --seed + i.")
    parser.add_argument(
        "--url", required=True, help="http://host:port/v1/models/NAME, or for gRPC grpc://host:port/NAME"
    )
    parser.add_argument("--num", type=count, default=16, help="how many images (default: %(default)s)")
    parser.add_argument("--seed", type=whole_number, default=0, help="seed of the first image (default: %(default)s)")
    add_temperature_argument(parser)
    add_pixels_argument(parser)
    parser.add_argument(
        "--label",
        type=whole_number,
        metavar="N",
        help="draw only this class: its number, which the model card names. For models with labels",
    )
    parser.add_argument("--batch-size", type=count, default=16, help="images in a request (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=_seconds, default=60, help="seconds to wait for an answer (default: %(default)s)"
    )
    parser.add_argument(
        "--retries",
        type=int,
        choices=range(11),
        default=3,
        metavar="N",
        help="how often to retry a request if the server is unreachable or overloaded; 0 to 10, over gRPC at most 4 "
        "(default: %(default)s)",
    )
    add_samples_output(parser)
    return parser.parse_args(argv)


def _seconds(text: str) -> int:
    if count(text) > MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} seconds are more than a day: give {MOST_SECONDS} at most")
    return int(text)


@exit_on_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can correct.
    """
    arguments = parse_arguments(argv)
    check_samples_output(arguments.output, arguments.num)
    from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401  isort: skip
    from dvpvae_tf.pictures.sample_files import writer_of

    write = writer_of(arguments.output)
    write_atomically(arguments.output, lambda path: write(path, _draw(arguments)))
    print(f"wrote {arguments.output}")


def _draw(arguments: argparse.Namespace) -> Iterator[Samples]:
    """The samples batch by batch, with a progress bar if there are several."""
    import keras
    import numpy as np

    from dvpvae_tf.serving import client

    several = arguments.num > arguments.batch_size
    progress = keras.utils.Progbar(arguments.num, verbose=int(several), unit_name="image")
    seeds = arguments.seed + np.arange(arguments.num)
    for first in range(0, arguments.num, arguments.batch_size):
        of_batch = seeds[first : first + arguments.batch_size]
        options = arguments.temperature, arguments.timeout, arguments.retries, arguments.pixels, arguments.label
        yield client.sample(arguments.url, of_batch, *options)
        progress.add(len(of_batch))


if __name__ == "__main__":
    main()
