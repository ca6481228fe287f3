"""Turns the authors' PyTorch checkpoints into models of this library: `python -m dvpvae_tf.convert`."""

from pathlib import Path

from dvpvae_tf.config.parser import Parser
from dvpvae_tf.errors import UserError, exit_on_error
from dvpvae_tf.files import check_output, write_atomically
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.models.conversion import load_released_weights, read_state_dict


def parse_arguments(argv=None):
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: list of str; by default the arguments of the process.

    Returns:
        `argparse.Namespace` with `weights`, `config`, `output`, `raw_weights` and `overwrite`.

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
    parser.add_argument("--raw-weights", action="store_true", help="take the raw weights, not their EMA")
    parser.add_argument("--overwrite", action="store_true", help="replace the output where it exists")
    return parser.parse_args(argv)


def convert(weights, config, output, raw_weights=False, overwrite=False):
    """Makes a `.keras` file of a checkpoint; a file that is written is whole.

    Args:
        weights: path of the authors' checkpoint, see `dvpvae_tf.models.conversion.read_state_dict`.
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
    check_output(output, [".keras"])
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists: give another --output, or --overwrite")
    tensors = read_state_dict(weights, ema=not raw_weights)
    model = DVPVAE.from_preset(config)
    dropped = load_released_weights(model, tensors)
    write_atomically(output, model.save)
    return model, dropped


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
    with exit_on_error():
        arguments = parse_arguments(argv)
        model, dropped = convert(**vars(arguments))
        _print_dropped(dropped)
        print(f"{model.num_parameters:,} trainable parameters")
        print(f"wrote {arguments.output}")


if __name__ == "__main__":
    main()
