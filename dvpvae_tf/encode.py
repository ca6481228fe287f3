"""The command `python -m dvpvae_tf.encode`: writes the pseudoinputs and latents of images as arrays."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dvpvae_tf.command_line.options import add_data_arguments, add_model_arguments, count
from dvpvae_tf.config.parser import Parser
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.files import check_output, write_atomically


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Returns:
        The options, with `draw`, `batch_size` and `output`.

    Raises:
        UserError: if an option is unknown, missing, out of its range, or of no use beside the others.
    """
    parser = Parser("encode", "Write the pseudoinput u and the latents z of each image, for `decode` or as features.")
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--draw", action="store_true", help="draw u and z from their posteriors (default: their means)")
    parser.add_argument("--batch-size", type=count, default=250, help="images in a batch (default: %(default)s)")
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FILE.npz",
        help="float32 arrays: `u`, and `z_L` (the top layer) to `z_1`, a row for each image; of a folder `files`, too",
    )
    arguments = parser.parse_args(argv)
    if arguments.seed and not arguments.draw:
        parser.error("--seed is for --draw: means have no noise")
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
    check_output(arguments.output, [".npz"])
    from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401  isort: skip
    from dvpvae_tf.command_line.inputs import model_of, read_split_of
    from dvpvae_tf.models.latents import FILES, save_latents

    model = model_of(arguments)
    images, names = read_split_of(arguments, model)
    latents = model.encode(images, arguments.draw, arguments.seed, arguments.batch_size)
    named = {} if names is None else {FILES: names}
    write_atomically(arguments.output, lambda path: save_latents(path, latents, **named))
    print(f"wrote {arguments.output}: latents of {len(images)} images")


if __name__ == "__main__":
    main()
