"""Turns the authors' PyTorch checkpoints into models of this library: `python -m dvpvae_tf.convert`."""

import argparse
import math
import os
from pathlib import Path

from dvpvae_tf.conversion import load_released_weights, read_state_dict
from dvpvae_tf.errors import UserError, told_in_one_line
from dvpvae_tf.models import DVPVAE


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message} (--help lists all options)")


def parse_arguments(argv=None):
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: list of str; by default the arguments of the process.

    Returns:
        `argparse.Namespace` with `weights`, `config`, `output`, `raw_weights` and `overwrite`.

    Raises:
        UserError: if an option is unknown or missing.
    """
    parser = _Parser(
        prog="python -m dvpvae_tf.convert",
        description="Turn a PyTorch checkpoint of the authors into a .keras model.",
        allow_abbrev=False,
    )
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
    parser.add_argument("--raw-weights", action="store_true", help="take the raw weights, not their EMA")
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")
    return parser.parse_args(argv)


def convert(weights, config, output, raw_weights=False, overwrite=False):
    """Makes a `.keras` file of a checkpoint; a file that is written is whole.

    Args:
        weights: path of the authors' checkpoint, see `dvpvae_tf.conversion.read_state_dict`.
        config: name of a preset or path of a YAML file.
        output: path of the file to write, `.keras`.
        raw_weights: bool, whether to take the raw weights where there are EMA ones too.
        overwrite: bool, whether to replace a file that exists.

    Returns:
        The `DVPVAE` that was written, and a dict from the names of the dropped tensors to the reason.

    Raises:
        UserError: if something cannot be read or written, or the weights do not fit the config.
    """
    output = Path(output)
    _check_output(output, overwrite)
    tensors = read_state_dict(weights, ema=not raw_weights)
    model = DVPVAE.from_preset(config)
    dropped = load_released_weights(model, tensors)
    _save(model, output)
    return model, dropped


def _check_output(output, overwrite):
    if output.suffix != ".keras":
        raise UserError(f"the output is {output}: give it a name that ends in .keras")
    if not output.parent.is_dir():
        raise UserError(f"there is no folder {output.parent} for the output: make it first")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists: give another --output, or --overwrite")


def _save(model, output):
    unfinished = output.with_name(f".{output.stem}.{os.getpid()}.keras")
    try:
        model.save(unfinished)
        os.replace(unfinished, output)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _print_dropped(dropped):
    print(f"dropped {len(dropped)} tensors or rows of tensors:")
    for reason in dict.fromkeys(dropped.values()):
        names = [name for name, why in dropped.items() if why == reason]
        print(f"{len(names):5} {reason}: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}")


def main(argv=None):
    """Runs the command.

    Args:
        argv: list of str; by default the arguments of the process.
    """
    with told_in_one_line():
        arguments = parse_arguments(argv)
        model, dropped = convert(**vars(arguments))
        _print_dropped(dropped)
        parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
        print(f"{parameters:,} trainable parameters")
        print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
