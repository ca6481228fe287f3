"""The command `python -m dvpvae_tf.decode`: makes images from latents that `encode` has written."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dvpvae_tf.command_line.options import (
    add_model_arguments,
    add_pixels_argument,
    add_samples_output,
    add_temperature_argument,
    check_samples_output,
    count,
)
from dvpvae_tf.config.parser import Parser
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.files import write_atomically


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Returns:
        The options, with `latents`, `only_u`, `temperature`, `pixels`, `batch_size` and `output`.

    Raises:
        UserError: if an option is unknown, missing or out of its range.
    """
    parser = Parser("decode", "Make images from latents. What the file leaves out is drawn, as `sample` does.")
    add_model_arguments(parser)
    parser.add_argument(
        "--latents", required=True, type=Path, metavar="FILE.npz", help="what `encode` has written, changed or not"
    )
    parser.add_argument("--only-u", action="store_true", help="take u alone from the file and draw every z")
    add_temperature_argument(parser)
    add_pixels_argument(parser)
    parser.add_argument("--batch-size", type=count, default=250, help="images in a batch (default: %(default)s)")
    add_samples_output(parser, "a grid", "`images`")
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
    from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401  isort: skip
    from dvpvae_tf.command_line.inputs import model_of
    from dvpvae_tf.models import Latents, Samples
    from dvpvae_tf.models.latents import check_latents, load_latents
    from dvpvae_tf.models.sampling import decode_in_batches
    from dvpvae_tf.pictures.sample_files import writer_of

    model = model_of(arguments)
    latents = load_latents(arguments.latents, model.num_layers)
    if arguments.only_u:
        latents = Latents(latents.u)
    rows = check_latents(model, latents)
    check_samples_output(arguments.output, rows, arguments.latents)
    write = writer_of(arguments.output)
    settings = arguments.temperature, arguments.pixels, arguments.seed, arguments.batch_size
    batches = (Samples(images, None) for images in decode_in_batches(model, latents, *settings))
    write_atomically(arguments.output, lambda path: write(path, batches))
    print(f"wrote {arguments.output}: {rows} images")


if __name__ == "__main__":
    main()
