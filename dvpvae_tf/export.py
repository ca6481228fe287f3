"""The command `python -m dvpvae_tf.export`: writes a trained model as a version folder for TensorFlow Serving."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dvpvae_tf.command_line.options import (
    add_data_arguments,
    add_model_arguments,
    add_process_arguments,
    count,
    temperature,
    whole_number,
)
from dvpvae_tf.config.parser import Parser
from dvpvae_tf.config.settings import SOURCE_SETTINGS
from dvpvae_tf.errors import UserError, exit_on_error

if TYPE_CHECKING:
    from dvpvae_tf.models import DVPVAE

BOUND_SAMPLES = 10


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Returns:
        Namespace with `model`, `mixed_precision`, `seed`, `output`, `version`, `steps`, `ancestral`,
        `prior_temperature`, `bound_images`, `bound_samples` and what `add_data_arguments` adds.

    Raises:
        UserError: if an option is unknown, missing, out of its range, or of no use beside the others.
    """
    parser = Parser("export", "Write a trained model as a SavedModel with a model card, for TensorFlow Serving.")
    add_model_arguments(parser)
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FOLDER", help="such as saved_models/mnist; versions go into it"
    )
    parser.add_argument("--version", type=count, help="number of a new version (default: the next)")
    add_process_arguments(parser)
    parser.add_argument(
        "--prior-temperature",
        type=temperature,
        default=1.0,
        help="factor of the noise of the prior over u, for all requests (default: %(default)s)",
    )
    parser.add_argument(
        "--bound-images",
        type=whole_number,
        default=100,
        metavar="N",
        help="number of images for the bound of the model card; 0 leaves the bound out (default: %(default)s)",
    )
    parser.add_argument(
        "--bound-samples",
        type=count,
        metavar="K",
        help="draws for each image of that bound (iwae). The time grows with N times K: 1000 and 100 give a precise "
        f"bound in minutes to hours (default: {BOUND_SAMPLES})",
    )
    add_data_arguments(parser)
    arguments = parser.parse_args(argv)
    of_bound = ("bound_samples", "dataset", "split", *sorted(SOURCE_SETTINGS))
    given = [name for name in of_bound if getattr(arguments, name) is not None] + ["seed"] * bool(arguments.seed)
    if given and not arguments.bound_images:
        parser.error(f"--{given[0].replace('_', '-')} is for the bound, which --bound-images 0 leaves out")
    arguments.bound_samples = arguments.bound_samples or BOUND_SAMPLES
    return arguments


def export(arguments: argparse.Namespace, command: str | None = None) -> Path:
    """Writes the version.

    Args:
        arguments: see `parse_arguments`.
        command: command line, for the model card, or None.

    Returns:
        Folder of the version.

    Raises:
        UserError: for a mistake that the user can correct.
    """
    from dvpvae_tf.command_line.inputs import model_with_process_of
    from dvpvae_tf.models.model_folder import is_model_folder_or_name, model_metadata
    from dvpvae_tf.models.sampling import check_prior_temperature
    from dvpvae_tf.serving import saved_model
    from dvpvae_tf.training.run_folder import run_config

    version = arguments.version or saved_model.next_version(arguments.output)
    saved_model.check_version(arguments.output, version)
    model = model_with_process_of(arguments)
    check_prior_temperature(model, arguments.prior_temperature)
    bound = _measure_bound(arguments, model)
    config = run_config(arguments.model)
    metadata = None if config or not is_model_folder_or_name(arguments.model) else model_metadata(arguments.model)
    print("tracing and writing the signatures", flush=True)
    return saved_model.write_version(
        arguments.output, version, model, config, bound, arguments.steps, arguments.prior_temperature, command, metadata
    )


def _measure_bound(arguments: argparse.Namespace, model: DVPVAE) -> dict | None:
    """The bound of the model card, or None where it is left out."""
    from dvpvae_tf import evaluation
    from dvpvae_tf.command_line.inputs import data_settings, read_split_of, split_name

    if not arguments.bound_images:
        return None
    try:
        images = read_split_of(arguments, model)[0][: arguments.bound_images]
    except UserError as error:
        raise UserError(f"{error}; or leave the bound out of the model card with --bound-images 0") from error
    data = f"{data_settings(arguments)['name']}, {split_name(arguments)}"
    samples = arguments.bound_samples
    print(
        f"measuring the bound of the model card: iwae of {len(images)} images of {data}, {samples} samples each "
        "(see --bound-images and --bound-samples)",
        flush=True,
    )
    summary = evaluation.iwae(model, images, samples, arguments.steps, arguments.seed).summary()
    return summary | {"data": data}


def _command_line(argv: Sequence[str]) -> str:
    """The command for the model card; of absolute paths only the last part is kept, as in `folder:pictures`."""

    def shorten(word: str) -> str:
        option = re.match(r"(--[\w-]+=)?(folder:)?", word)[0]  # type: ignore[index]  # it matches any word
        path = word.removeprefix(option)
        return option + Path(path).name if path.startswith(("/", "~")) else word

    return shlex.join(["python", "-m", "dvpvae_tf.export", *map(shorten, argv)])


@exit_on_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can correct.
    """
    command = _command_line(sys.argv[1:] if argv is None else argv)
    arguments = parse_arguments(argv)
    from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401  isort: skip
    from dvpvae_tf.serving import saved_model

    path = export(arguments, command)
    if not saved_model.has_serving_api():
        print("without warm-up requests the first answers will be slow: pip install 'dvpvae_tf[serving]'")
    print(f"wrote {path}: see {path / saved_model.EXTRA / 'model_card.md'}")


if __name__ == "__main__":
    main()
