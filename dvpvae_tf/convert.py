"""Turns the authors' PyTorch checkpoints into models of this library: `python -m dvpvae_tf.convert`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dvpvae_tf.config.parser import Parser
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.files import check_output, write_atomically

if TYPE_CHECKING:
    from dvpvae_tf.models import DVPVAE


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Returns:
        The options `weights`, `config`, `output`, `raw_weights` and `overwrite`.

    Raises:
        UserError: if an option is unknown or missing.
    """
    parser = Parser("convert", "Turn a PyTorch checkpoint of the authors into a .keras model.")
    parser.add_argument(
        "--weights",
        required=True,
        type=Path,
        metavar="FILE",
        help="the checkpoint (.pt), or its arrays (.npz)",
    )
    parser.add_argument(
        "--config", required=True, metavar="NAME_OR_FILE", help="preset or YAML file that the weights are for"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the .keras file to write")
    parser.add_argument(
        "--raw-weights", action="store_true", help="take the raw weights of a .pt checkpoint, not their EMA"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")
    arguments = parser.parse_args(argv)
    if arguments.raw_weights and arguments.weights.suffix == ".npz":
        parser.error("--raw-weights is for a .pt checkpoint, which has two kinds of weights: an .npz file has one")
    return arguments


def convert(
    weights: str | Path, config: str | Path, output: str | Path, raw_weights: bool = False, overwrite: bool = False
) -> tuple[DVPVAE, dict[str, str]]:
    """Writes a `.keras` file with the weights of a checkpoint.

    Args:
        weights: path of the authors' checkpoint (`.pt`), or of its arrays (`.npz`).
        config: name of a preset or path of a YAML file.
        output: path of the file to write, `.keras`.
        raw_weights: takes the raw weights, not their average.
        overwrite: replaces a file that exists.

    Returns:
        The model that was written, and a dictionary from the names of the dropped tensors to the reason.

    Raises:
        UserError: if something cannot be read or written, or the weights do not fit the config.
    """
    output = Path(output)
    check_output(output, [".keras"], overwrite)
    from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401
    from dvpvae_tf.models import DVPVAE
    from dvpvae_tf.models.conversion import load_released_weights, read_state_dict

    tensors = read_state_dict(weights, ema=not raw_weights)
    model = DVPVAE.from_preset(config)
    dropped = load_released_weights(model, tensors)
    write_atomically(output, model.save)
    return model, dropped


def _print_dropped(dropped: dict[str, str]) -> None:
    print(f"dropped {len(dropped)} tensors or rows of tensors:")
    for reason in dict.fromkeys(dropped.values()):
        names = [name for name, why in dropped.items() if why == reason]
        print(f"{len(names):5} {reason}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}")


@exit_on_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can put right.
    """
    arguments = parse_arguments(argv)
    model, dropped = convert(**vars(arguments))
    _print_dropped(dropped)
    print(f"{model.num_parameters:,} trainable parameters")
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
