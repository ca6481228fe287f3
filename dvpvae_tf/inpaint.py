"""The command `python -m dvpvae_tf.inpaint`: draws the missing pixels of a picture from a trained model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dvpvae_tf.command_line.options import (
    add_model_arguments,
    add_pixels_argument,
    add_process_arguments,
    add_samples_output,
    check_samples_output,
    count,
)
from dvpvae_tf.config.parser import Parser
from dvpvae_tf.errors import UserError, exit_on_error
from dvpvae_tf.files import write_atomically

if TYPE_CHECKING:
    import numpy as np

    from dvpvae_tf.models import DVPVAE, Samples

CHAINS = 20
GREY = 0.5  # of the gap in the picture that a grid starts with


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Returns:
        The options, with `image`, `mask`, `box`, `num`, `rounds`, `chains`, `approximate`, `steps`, `ancestral`,
        `pixels` and `output`.

    Raises:
        UserError: if an option is unknown, missing, out of its range, or of no use beside the others.
    """
    parser = Parser("inpaint", "Draw the missing pixels of a picture, given the others.")
    add_model_arguments(parser)
    parser.add_argument(
        "--image",
        required=True,
        type=Path,
        metavar="FILE",
        help="the picture, of any size and format; it is cropped to a square and resized",
    )
    gap = parser.add_mutually_exclusive_group(required=True)
    gap.add_argument(
        "--mask", type=Path, metavar="FILE", help="a picture of the size of --image, white where pixels are missing"
    )
    gap.add_argument(
        "--box",
        type=_box,
        metavar="TOP,LEFT,HEIGHT,WIDTH",
        help="the missing rectangle, in pixels of the model: 14,0,14,28 is the lower half of 28 x 28",
    )
    parser.add_argument("--num", type=count, default=15, help="how many draws (default: %(default)s)")
    parser.add_argument("--rounds", type=count, default=20, help="rounds of each chain (default: %(default)s)")
    chains = parser.add_mutually_exclusive_group()
    chains.add_argument("--chains", type=count, help=f"chains of each draw; more are more exact (default: {CHAINS})")
    chains.add_argument(
        "--approximate", action="store_true", help="take one chain without weights: faster, but not the model's draws"
    )
    add_process_arguments(parser)
    add_pixels_argument(parser, "mean")
    add_samples_output(parser, "a grid that starts with the picture and its gap", "`images`")
    arguments = parser.parse_args(argv)
    arguments.chains = arguments.chains or CHAINS
    return arguments


def _box(text: str) -> tuple[int, int, int, int]:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() for part in parts) or "0" in parts[2:]:
        raise argparse.ArgumentTypeError(f"{text} is no rectangle: give four whole numbers such as 14,0,14,28")
    top, left, height, width = map(int, parts)
    return top, left, height, width


@exit_on_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can put right.
    """
    arguments = parse_arguments(argv)
    check_samples_output(arguments.output, arguments.num, arguments.image, arguments.mask)
    from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401  isort: skip
    from dvpvae_tf.command_line.inputs import model_with_process_of
    from dvpvae_tf.pictures.sample_files import writer_of

    write = writer_of(arguments.output)
    samples = inpaint(arguments, model_with_process_of(arguments))
    write_atomically(arguments.output, lambda path: write(path, samples))
    print(f"wrote {arguments.output}")


def inpaint(arguments: argparse.Namespace, model: DVPVAE) -> list[Samples]:
    """Draws the missing pixels, and prints what the draws are worth.

    Args:
        arguments: see `parse_arguments`.
        model: the model that they name.

    Returns:
        The samples; before them, where a grid is written, the picture with a grey gap.

    Raises:
        UserError: for a mistake that the user can put right.
    """
    import numpy as np

    from dvpvae_tf.data.folder import read_picture
    from dvpvae_tf.models import Samples

    side, _, channels = model.image_shape
    missing = _missing(arguments, side)
    picture = read_picture(arguments.image, side, channels).astype("float32") / 255.0
    how = f"{arguments.chains * arguments.rounds} candidates"
    if arguments.approximate:
        how = f"one chain of {arguments.rounds} rounds"
    print(f"{missing.sum()} of {missing.size} pixels are missing; {how} for each draw", flush=True)
    filled = model.inpaint(
        np.repeat(picture[np.newaxis], arguments.num, axis=0),
        missing,
        rounds=arguments.rounds,
        chains=arguments.chains,
        approximate=arguments.approximate,
        pixels=arguments.pixels,
        steps=arguments.steps,
        seed=arguments.seed,
    )
    if not arguments.approximate:
        print(
            f"They are worth {np.median(filled.effective_draws):.1f} independent ones (median): where that is near 1, "
            "give more --chains or --rounds"
        )
    with_gap = np.where(missing[..., np.newaxis], np.float32(GREY), picture)[np.newaxis]
    shown = [Samples(with_gap, None)] if arguments.output.suffix == ".png" else []
    return [*shown, Samples(filled.images, None)]


def _missing(arguments: argparse.Namespace, side: int) -> np.ndarray:
    """The mask, bool `[side, side]`, True where a pixel is missing."""
    import numpy as np

    from dvpvae_tf.data.folder import read_mask

    if arguments.mask is not None:
        return read_mask(arguments.mask, arguments.image, side)
    top, left, height, width = arguments.box
    if top + height > side or left + width > side:
        given = ",".join(map(str, arguments.box))
        raise UserError(f"--box {given} leaves the picture: the model's have {side} x {side} pixels")
    missing = np.zeros([side, side], bool)
    missing[top : top + height, left : left + width] = True
    return missing


if __name__ == "__main__":
    main()
