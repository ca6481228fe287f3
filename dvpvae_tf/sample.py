"""The command `python -m dvpvae_tf.sample`: draws images from a trained model."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dvpvae_tf.command_line.options import (
    add_model_arguments,
    add_pixels_argument,
    add_process_arguments,
    add_samples_output,
    add_sharding_arguments,
    add_temperature_argument,
    check_samples_output,
    count,
    temperature,
)
from dvpvae_tf.config.parser import Parser
from dvpvae_tf.distribute.sharding import fingerprint
from dvpvae_tf.errors import UserError, exit_on_error
from dvpvae_tf.files import write_atomically

if TYPE_CHECKING:
    import numpy as np

    from dvpvae_tf.models import DVPVAE, Samples


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Returns:
        `argparse.Namespace` with `model`, `mixed_precision`, `seed`, `num`, `temperature`, `prior_temperature`,
        `steps`, `ancestral`, `pixels`, `label`, `from_image`, `from_small_image`, `batch_size`, `strategy`, `shard`,
        `output`; `of_picture`, whether a picture gives u; and `rows`, the range of images that this process draws.

    Raises:
        UserError: if an option is unknown, missing, out of its range, or of no use beside the others.
    """
    parser = Parser("sample", "Draw images from a trained model. Image i depends on the seed and i alone.")
    add_model_arguments(parser)
    parser.add_argument("--num", type=count, default=64, help="how many images (default: %(default)s)")
    add_temperature_argument(parser)
    parser.add_argument(
        "--prior-temperature",
        type=temperature,
        default=1.0,
        help="the same factor for the prior over u (default: %(default)s)",
    )
    of_what = parser.add_mutually_exclusive_group()
    of_what.add_argument(
        "--label",
        metavar="C",
        help="draw only this class: its number from 0 on, or its name. For models of train --labels or "
        "fit_prior --labels",
    )
    of_what.add_argument(
        "--from-image",
        type=Path,
        metavar="FILE",
        help="draw variations of a picture: all share its u. Any size and format; it is cropped and resized",
    )
    of_what.add_argument(
        "--from-small-image",
        type=Path,
        metavar="FILE",
        help="draw large versions of a small picture: each of its pixels is the mean over a square",
    )
    add_process_arguments(parser)
    add_pixels_argument(parser)
    parser.add_argument(
        "--batch-size", type=count, default=250, help="images in a batch; memory grows with it (default: %(default)s)"
    )
    add_sharding_arguments(parser)
    add_samples_output(parser)
    arguments = parser.parse_args(argv)
    arguments.of_picture = bool(arguments.from_image or arguments.from_small_image)
    if arguments.of_picture and (arguments.steps or arguments.ancestral or arguments.prior_temperature != 1):
        parser.error("--steps, --ancestral and --prior-temperature say how u is drawn, and a picture gives it")
    arguments.rows = range(arguments.num)
    if arguments.shard:
        arguments.rows = arguments.shard.rows(arguments.num, arguments.batch_size)
        if arguments.output.suffix == ".png":
            parser.error("--shard is not for a grid: give an --output that ends in .npz, or a name without suffix")
        if arguments.output.name in ("", ".."):
            parser.error(f"--output {arguments.output} is no name for a file or a new folder")
        arguments.output = arguments.shard.part_of(arguments.output)
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
    check_samples_output(arguments.output, len(arguments.rows), arguments.from_image, arguments.from_small_image)
    if arguments.shard and arguments.output.exists():
        raise UserError(f"{arguments.output} is there already: remove what an earlier job has left")
    from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401  isort: skip
    from dvpvae_tf.command_line.inputs import model_of, model_with_process_of
    from dvpvae_tf.models.sampling import check_prior_temperature
    from dvpvae_tf.pictures.sample_files import writer_of
    from dvpvae_tf.priors.labelled_mixture import find_label

    write = writer_of(arguments.output, arguments.rows.start)
    model = model_of(arguments) if arguments.of_picture else model_with_process_of(arguments)
    check_prior_temperature(model, arguments.prior_temperature)
    if arguments.label is not None:
        arguments.label = find_label(model.prior, arguments.label)
        assert model.prior is not None  # else there are no labels
        print(f"label {model.prior.labels[arguments.label]}")
    times = [(0, time.perf_counter())]
    job = [_job(arguments, model)] if arguments.shard else []
    write_atomically(arguments.output, lambda path: write(path, _draw(arguments, model, times), *job))
    _print_cost(arguments, model, times)
    print(f"wrote {arguments.output}")


def _job(arguments: argparse.Namespace, model: DVPVAE) -> dict[str, Any]:
    """The settings that all parts of one job share."""
    of_model = ("model", "ancestral", "steps")
    names = (*of_model, "seed", "num", "temperature", "prior_temperature", "pixels", "label", "batch_size")
    settings = {name: getattr(arguments, name) for name in names}
    pictures = {name: getattr(arguments, name) for name in ("from_image", "from_small_image")}
    settings |= {name: path and str(path) for name, path in pictures.items()}
    settings["mixed_precision"] = model.compute_dtype == "bfloat16"
    return settings | {"weights": fingerprint(model.get_weights())}


def _draw(arguments: argparse.Namespace, model: DVPVAE, times: list[tuple[int, float]]) -> Iterator[Samples]:
    """The samples, batch by batch, with a progress bar where there are several; notes their number and the time."""
    import keras

    from dvpvae_tf.distribute.devices import copies_on_other_devices
    from dvpvae_tf.models.sampling import sample_in_batches

    num, pseudoinput = len(arguments.rows), _pseudoinput_of(arguments, model)
    print("Tracing the sampler, once: up to some minutes for a large model", flush=True)
    drawn = sample_in_batches(
        model,
        num,
        temperature=arguments.temperature,
        seed=arguments.seed,
        prior_temperature=arguments.prior_temperature,
        steps=arguments.steps,
        pixels=arguments.pixels,
        label=arguments.label,
        pseudoinput=pseudoinput,
        batch_size=arguments.batch_size,
        first=arguments.rows.start,
        copies=copies_on_other_devices(model) if arguments.strategy == "mirrored" else [],
    )
    progress = keras.utils.Progbar(num, verbose=int(num > arguments.batch_size), unit_name="image")
    for batch in drawn:
        times.append((times[-1][0] + len(batch.images), time.perf_counter()))
        yield batch
        progress.add(len(batch.images))


def _pseudoinput_of(arguments: argparse.Namespace, model: DVPVAE) -> np.ndarray | None:
    """The mean of u of the picture that the arguments name, `[d, d, C]`, or None where they name none."""
    import numpy as np

    from dvpvae_tf.data.folder import read_picture
    from dvpvae_tf.layers.pseudoinputs import DCTPseudoinput

    side, _, channels = model.image_shape
    if arguments.from_image:
        if model.pseudoinput is None:
            raise UserError("--from-image is for models with pseudoinputs, and this one has none")
        return np.asarray(model.encode(read_picture(arguments.from_image, side, channels)[np.newaxis]).u)[0]
    if not arguments.from_small_image:
        return None
    if not isinstance(model.pseudoinput, DCTPseudoinput):
        raise UserError("--from-small-image is for models with pseudoinputs of the kind dct, and this one has none")
    small = read_picture(arguments.from_small_image, None, channels)
    if not model.pseudoinput.size <= len(small) <= side:
        raise UserError(
            f"{arguments.from_small_image} has a side of {len(small)} pixels, not {model.pseudoinput.size} to {side}: "
            "--from-image takes pictures of any size"
        )
    return model.pseudoinput.from_small_images(small[np.newaxis]).numpy()[0]


def _print_cost(arguments: argparse.Namespace, model: DVPVAE, times: list[tuple[int, float]]) -> None:
    from dvpvae_tf.priors import DiffusionPrior

    (_, start), (first, first_end), (num, end) = times[0], times[1], times[-1]
    seconds = end - start
    rate, where = num / seconds, "tracing included"
    if num > first:
        rate, where = (num - first) / (end - first_end), f"after the first {first}"
    print(f"{num} images in {seconds:.1f} s, {rate:.1f} images per second {where}")
    if isinstance(model.prior, DiffusionPrior) and not arguments.of_picture:
        steps = model.check_steps(arguments.steps)
        evaluations = model.prior.predictions(steps)
        print(f"T = {steps} diffusion steps, {model.process_name}: {evaluations} UNet evaluations an image")


if __name__ == "__main__":
    main()
