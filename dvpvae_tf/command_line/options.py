"""Options that several commands share, and the types of their values: what is parsed before TensorFlow is imported.

`dvpvae_tf.command_line.inputs` loads what the parsed options name.
"""

import argparse
import math
import os
from pathlib import Path

from dvpvae_tf.config.parser import Parser
from dvpvae_tf.config.temperatures import SAMPLE_TEMPERATURE
from dvpvae_tf.distribute.sharding import Shard
from dvpvae_tf.errors import UserError
from dvpvae_tf.files import check_output

MOST_IN_GRID = 256
SPLITS = ("train", "validation", "test")


def count(text: str) -> int:
    """Parses an integer from 1 on, for `type` of an argument.

    Args:
        text: what the user typed.

    Returns:
        The integer.

    Raises:
        argparse.ArgumentTypeError: if it is anything else.
    """
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 on")
    return int(text)


def count_or_all(text: str) -> int | None:
    """Parses a number of rows, or "all", for `type` of an argument.

    Args:
        text: what the user typed.

    Returns:
        The integer, from 1 on; None for all.

    Raises:
        argparse.ArgumentTypeError: if it is anything else.
    """
    return None if text == "all" else count(text)


def temperature(text: str) -> float:
    """Parses a finite number from 0 on, for `type` of an argument.

    Args:
        text: what the user typed.

    Returns:
        The number.

    Raises:
        argparse.ArgumentTypeError: if it is anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 on")
    return value


def whole_number(text: str) -> int:
    """Parses a seed, a label or another integer from 0 on, for `type` of an argument.

    Args:
        text: what the user typed.

    Returns:
        The integer, from 0 to 2^31 - 1.

    Raises:
        argparse.ArgumentTypeError: if it is anything else.
    """
    if not text.isascii() or not text.isdigit() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to {2**31 - 1}")
    return int(text)


def shard(text: str) -> Shard:
    """Parses a shard, for `type` of an argument.

    Args:
        text: what the user typed, such as "0/3" for the first of three.

    Returns:
        The shard.

    Raises:
        argparse.ArgumentTypeError: if it is anything else.
    """
    index, slash, number = text.partition("/")
    if not (slash and (index + number).isascii() and index.isdigit() and number.isdigit() and int(index) < int(number)):
        raise argparse.ArgumentTypeError(f"{text} is not a shard: the three shards of a job are 0/3, 1/3 and 2/3")
    return Shard(int(index), int(number))


def add_sharding_arguments(parser: Parser) -> None:
    """Adds the options that split the work over devices and processes: `--strategy` and `--shard`.

    Args:
        parser: takes the options.
    """
    parser.add_argument(
        "--strategy",
        choices=("single", "mirrored"),
        default="single",
        help="compute on one device, or on all of this machine (default: %(default)s)",
    )
    parser.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="do only part I of N, counted from 0, and write it beside --output; dvpvae_tf.merge joins the parts",
    )


def add_model_arguments(parser: Parser) -> None:
    """Adds the options of the model: `--model`, `--mixed-precision` and `--seed`.

    Args:
        parser: takes the options.
    """
    parser.add_argument(
        "--model",
        required=True,
        type=os.path.expanduser,
        metavar="MODEL",
        help="name of a trained model (such as mnist_plus), folder of a training run, .keras file, or model folder",
    )
    parser.add_argument(
        "--mixed-precision",
        action=argparse.BooleanOptionalAction,
        help="compute in bfloat16, or in float32 (default: as the model was trained)",
    )
    parser.add_argument("--seed", type=whole_number, default=0, help="seed of the noise (default: %(default)s)")


def add_process_arguments(parser: Parser) -> None:
    """Adds the options that say how a diffusion prior takes its steps: `--steps` and `--ancestral`.

    Args:
        parser: takes the options.
    """
    parser.add_argument(
        "--steps",
        type=count,
        metavar="T",
        help="diffusion steps, at most 100 of a calibrated prior (default: the model's own)",
    )
    parser.add_argument(
        "--ancestral",
        action="store_true",
        help="take the diffusion steps as the paper does, without the model's calibration",
    )


def add_samples_output(
    parser: Parser,
    grid: str = "a grid, each image below its pseudoinput",
    arrays: str = "`images` and `pseudoinputs` (none for the Ladder VAE)",
) -> None:
    """Adds the option `--output`, where samples are written.

    Args:
        parser: takes the option.
        grid: what a .png file shows.
        arrays: what a .npz file holds.
    """
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="PATH",
        help=f"FILE.png: {grid}. FILE.npz: {arrays}, uint8 [N, D, D, C]. A name without suffix: a new folder of images "
        "000000.png, 000001.png, ...",
    )


def check_samples_output(output: Path, num: int, *inputs: Path | None) -> None:
    """Checks that samples can be written.

    Args:
        output: where, as `add_samples_output` says.
        num: the number of samples.
        *inputs: files that are read, which the output must not replace.

    Raises:
        UserError: if it cannot be written, it is an input, or the images are too many for a grid.
    """
    check_output(output, [".png", ".npz", ""], inputs=inputs)
    if output.suffix == ".png" and num > MOST_IN_GRID:
        raise UserError(
            f"{num} images are too many for a grid, which takes {MOST_IN_GRID}: give an --output that ends in .npz, or "
            "a name without suffix for a folder"
        )


def add_temperature_argument(parser: Parser, default: float = SAMPLE_TEMPERATURE) -> None:
    """Adds the option `--temperature`.

    Args:
        parser: takes the option.
        default: the temperature where the option is left out.
    """
    parser.add_argument(
        "--temperature",
        type=temperature,
        default=default,
        help="factor of the standard deviation of each z that the prior draws; where pixels are drawn, also of the "
        "scale of a logistic mixture (default: %(default)s)",
    )


def add_pixels_argument(parser: Parser, default: str = "draw") -> None:
    """Adds the option `--pixels`: whether grey levels and colours are drawn or are means.

    Args:
        parser: takes the options.
        default: what is done where the option is left out.
    """
    parser.add_argument(
        "--pixels",
        choices=["draw", "mean"],
        default=default,
        help="draw colours and grey levels from p(x|z), or take its mean: smoother pictures, but no samples "
        "(default: %(default)s)",
    )


def add_data_arguments(parser: Parser) -> None:
    """Adds the options of the images: those of `add_dataset_arguments`, and `--split`.

    Args:
        parser: takes the options.
    """
    add_dataset_arguments(parser)
    parser.add_argument(
        "--split",
        choices=SPLITS,
        help="which images of the data set (default: test; all of a folder that has no subfolders train and test and "
        "is not the run's)",
    )


def add_dataset_arguments(parser: Parser) -> None:
    """Adds the options of the data set: its name, how its images are read and where they are.

    Args:
        parser: takes the options.
    """
    parser.add_argument(
        "--dataset",
        help="mnist5k, mnist, omniglot, cifar10, tfds:NAME or folder:PATH (default: the data that the model names)",
    )
    add_source_arguments(parser)


def add_source_arguments(parser: Parser) -> None:
    """Adds the options that say how and where images are read: `SOURCE_SETTINGS` of `dvpvae_tf.config.settings`.

    Args:
        parser: takes the options.
    """
    parser.add_argument("--image-size", type=count, help="crop and resize images of tfds: or folder: to this side")
    parser.add_argument("--background", metavar="COLOUR", help="colour under transparent pictures of folder:")
    parser.add_argument(
        "--skip-broken", action="store_true", default=None, help="leave out pictures of folder: that cannot be read"
    )
    add_data_places(parser)


def add_data_places(parser: Parser) -> None:
    """Adds the options of the places of data: `--data-dir` and `--omniglot-mat`.

    Args:
        parser: takes the options.
    """
    parser.add_argument("--data-dir", type=os.path.expanduser, metavar="FOLDER", help="folder of TensorFlow Datasets")
    parser.add_argument(
        "--omniglot-mat", metavar="FILE", help="the file chardata.mat of OMNIGLOT (default: download it)"
    )
