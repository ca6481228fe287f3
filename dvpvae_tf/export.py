"""The command `python -m dvpvae_tf.export`: writes a trained model as a version folder for TensorFlow Serving."""

import argparse
import shlex
import sys
from pathlib import Path

from dvpvae_tf import evaluation
from dvpvae_tf.command_inputs import check_steps, data_settings, images_of, model_of
from dvpvae_tf.command_line import add_data_arguments, add_model_arguments, count, temperature
from dvpvae_tf.config.parser import Parser
from dvpvae_tf.errors import UserError, exit_on_error
from dvpvae_tf.serving import archive
from dvpvae_tf.training.run_folder import run_config

SAMPLES = 100


def parse_arguments(argv=None):
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: list of str; by default the arguments of the process.

    Returns:
        `argparse.Namespace` with `model`, `mixed_precision`, `seed`, `output`, `version`, `steps`,
        `prior_temperature`, `bound_images` and those of `dvpvae_tf.command_line.add_data_arguments`.

    Raises:
        UserError: if an option is unknown, missing or out of its range.
    """
    parser = Parser("export", "Write a trained model as a SavedModel with a model card, for TensorFlow Serving.")
    add_model_arguments(parser)
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FOLDER", help="such as saved_models/mnist; versions go into it"
    )
    parser.add_argument("--version", type=count, help="never one that exists (default: the next)")
    parser.add_argument("--steps", type=count, metavar="T", help="diffusion steps (default: those of the model)")
    parser.add_argument(
        "--prior-temperature",
        type=temperature,
        default=1.0,
        help="factor of the noise of the prior over u, for all requests (default: %(default)s)",
    )
    parser.add_argument(
        "--bound-images",
        type=_count_or_none,
        default=200,
        metavar="N",
        help=f"how many images the bound of the model card is measured on (iwae, K = {SAMPLES}); 0: it is not "
        "(default: %(default)s)",
    )
    add_data_arguments(parser)
    return parser.parse_args(argv)


def _count_or_none(text):
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 on")
    return int(text)


def export(arguments, command=None):
    """Writes the version.

    Args:
        arguments: see `parse_arguments`.
        command: str or None, the command line, for the model card.

    Returns:
        Path of the version folder.

    Raises:
        UserError: for a mistake that the user can put right.
    """
    version = arguments.version or archive.next_version(arguments.output)
    archive.check_version(arguments.output, version)
    model = model_of(arguments)
    if arguments.steps:
        check_steps(arguments, model)
    return archive.write_version(
        arguments.output,
        version,
        model,
        run_config(arguments.model),
        _bound(arguments, model),
        arguments.steps,
        arguments.prior_temperature,
        command,
    )


def _bound(arguments, model):
    """The bound of the model card, or None."""
    if not arguments.bound_images:
        return None
    try:
        images = images_of(arguments, model)[: arguments.bound_images]
    except UserError as error:
        raise UserError(
            f"{error}; or give --bound-images 0, and the model card says that it was not measured"
        ) from error
    summary = evaluation.iwae(model, images, SAMPLES, arguments.steps, arguments.seed).summary()
    return summary | {"data": f"{data_settings(arguments)['name']}, {arguments.split}"}


def main(argv=None):
    """Runs the command.

    Args:
        argv: list of str; by default the arguments of the process.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can put right.
    """
    with exit_on_error():
        command = shlex.join(["python", "-m", "dvpvae_tf.export", *(sys.argv[1:] if argv is None else argv)])
        path = export(parse_arguments(argv), command)
        if not archive.can_warm_up():
            print("no requests to warm up with, so the first one will be slow: pip install 'dvpvae_tf[serving]'")
        print(f"wrote {path}: see {path / archive.EXTRA / 'model_card.md'}")


if __name__ == "__main__":
    main()
