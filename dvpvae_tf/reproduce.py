"""The command `python -m dvpvae_tf.reproduce`: runs a table or figure of the paper, the paper's numbers beside ours."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from dvpvae_tf.command_line.options import add_data_places, whole_number
from dvpvae_tf.config.parser import Parser
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.experiments import descriptions

DEFAULT_SEEDS = {"paper": [0, 1, 2, 3], "cpu": [0, 1], "smoke": [0]}


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Returns:
        The options `what`, `scale`, `seeds`, `data`, `output`, `data_dir` and `omniglot_mat`.

    Raises:
        UserError: if an option is unknown or a value is wrong.
    """
    described = descriptions.read_experiments()
    parser = Parser(
        "reproduce", "Run a table or figure of the paper, and write it, with the paper's numbers beside ours."
    )
    parser.add_argument("what", choices=described.all())
    parser.add_argument(
        "--scale", choices=described.scales, default="cpu", help="size of the experiment (default: %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=_seeds, help="seeds, such as 0,1,2,3 (default: four; two for cpu, one for smoke)"
    )
    parser.add_argument("--data", help="only the rows of this data set")
    parser.add_argument(
        "--output", type=Path, default=Path("results"), help="folder for the results (default: %(default)s)"
    )
    add_data_places(parser)
    arguments = parser.parse_args(argv)
    if arguments.seeds and arguments.what in described.costs:
        parser.error(f"--seeds is not for {arguments.what}, which measures costs with seed 0")
    arguments.seeds = arguments.seeds or DEFAULT_SEEDS[arguments.scale]
    return arguments


def _seeds(text: str) -> list[int]:
    if not text:
        raise argparse.ArgumentTypeError("give at least one seed")
    seeds = [whole_number(part) for part in text.split(",")]
    if len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text} names a seed twice")
    return seeds


@exit_on_error("the same command goes on, and keeps the runs that are finished")
def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        argv: command-line arguments; None takes `sys.argv[1:]`.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can put right.
    """
    arguments = parse_arguments(argv)
    from dvpvae_tf.experiments.report import reproduce  # imports TensorFlow

    path = reproduce(arguments)
    print(path.read_text(encoding="utf-8"))
    print(f"wrote {path}, and beside it .csv and .json")


if __name__ == "__main__":
    main()
