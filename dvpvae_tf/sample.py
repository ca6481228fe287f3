"""The command `python -m dvpvae_tf.sample`: draws images from a trained model."""

import time
from pathlib import Path

import keras

from dvpvae_tf.command_line import Parser, add_model_arguments, add_temperature_argument, count, temperature
from dvpvae_tf.errors import UserError, told_in_one_line
from dvpvae_tf.files import write_atomically
from dvpvae_tf.priors import DiffusionPrior
from dvpvae_tf.runs import model_of
from dvpvae_tf.sample_files import OUTPUT_HELP, writer_of


def parse_arguments(argv=None):
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: list of str; by default the arguments of the process.

    Returns:
        `argparse.Namespace` with `model`, `mixed_precision`, `seed`, `num`, `temperature`, `prior_temperature`,
        `steps`, `ddim`, `batch_size` and `output`.

    Raises:
        UserError: if an option is unknown, missing or out of its range.
    """
    parser = Parser("sample", "Draw images from a trained model. Image i depends on the seed and i alone.")
    add_model_arguments(parser)
    parser.add_argument("--num", type=count, default=64, help="how many images (default: %(default)s)")
    add_temperature_argument(parser)
    parser.add_argument(
        "--prior-temperature",
        type=temperature,
        default=1.0,
        help="the same of the prior over u (default: %(default)s)",
    )
    parser.add_argument("--steps", type=count, metavar="T", help="diffusion steps (default: those of the model)")
    parser.add_argument("--ddim", action="store_true", help="take these steps without noise")
    parser.add_argument("--batch-size", type=count, default=100, help="bounds the memory (default: %(default)s)")
    parser.add_argument("--output", required=True, type=Path, metavar="PATH", help=OUTPUT_HELP)
    return parser.parse_args(argv)


def main(argv=None):
    """Runs the command.

    Args:
        argv: list of str; by default the arguments of the process.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can put right.
    """
    with told_in_one_line():
        arguments = parse_arguments(argv)
        write = writer_of(arguments.output, arguments.num)
        model = model_of(arguments)
        _check_steps(arguments, model)
        times = [time.perf_counter()]
        write_atomically(arguments.output, lambda path: write(path, _draw(arguments, model, times)))
        _print_cost(arguments, model, times)
        print(f"wrote {arguments.output}")


def _check_steps(arguments, model):
    if not isinstance(model.prior, DiffusionPrior) and (arguments.ddim or arguments.steps):
        option = "--ddim" if arguments.ddim else "--steps"
        raise UserError(f"{option} is for models with a diffusion prior, and {arguments.model} has none: leave it out")


def _draw(arguments, model, times):
    """The samples, batch by batch, with a progress bar where there are several; notes the time after each batch."""
    drawn = model.sample_in_batches(
        arguments.num,
        temperature=arguments.temperature,
        seed=arguments.seed,
        prior_temperature=arguments.prior_temperature,
        steps=arguments.steps,
        deterministic=arguments.ddim,
        batch_size=arguments.batch_size,
    )
    several = arguments.num > arguments.batch_size
    progress = keras.utils.Progbar(arguments.num, verbose=int(several), unit_name="image")
    for batch in drawn:
        times.append(time.perf_counter())
        yield batch
        progress.add(len(batch.images))


def _print_cost(arguments, model, times):
    seconds, num = times[-1] - times[0], arguments.num
    rate, where = num / seconds, "with the making of the graph"
    if len(times) > 2:
        rate = (num - arguments.batch_size) / (times[-1] - times[1])
        where = f"after the first {arguments.batch_size}"
    print(f"{num} images in {seconds:.1f} s, {rate:.1f} images per second {where}")
    if isinstance(model.prior, DiffusionPrior):
        steps = arguments.steps or model.prior.steps
        kind = "deterministic (DDIM)" if arguments.ddim else "ancestral"
        print(f"T = {steps} diffusion steps, {kind}: {steps} UNet evaluations an image")


if __name__ == "__main__":
    main()
