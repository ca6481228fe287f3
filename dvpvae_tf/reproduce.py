"""The command `python -m dvpvae_tf.reproduce`: runs a table or figure of the paper, the paper's numbers beside ours."""

import argparse
import re
from pathlib import Path

from dvpvae_tf import experiments
from dvpvae_tf.command_line import Parser, seed
from dvpvae_tf.data.pipelines import read_images
from dvpvae_tf.errors import UserError, told_in_one_line

DEFAULT_SEEDS = {"paper": [0, 1, 2, 3], "cpu": [0, 1], "smoke": [0]}


def parse_arguments(argv=None):
    """Parses the command line; `--help` prints and exits.

    Args:
        argv: list of str; by default the arguments of the process.

    Returns:
        `argparse.Namespace` with `what`, `scale`, `seeds`, `data`, `output`, `data_dir` and `omniglot_mat`.

    Raises:
        UserError: if an option is unknown or a value is wrong.
    """
    described = experiments.read_experiments()
    parser = Parser(
        "reproduce", "Run a table or figure of the paper, and write it, with the paper's numbers beside ours."
    )
    parser.add_argument("what", choices=[*described.tables, *described.figures])
    parser.add_argument("--scale", choices=described.scales, default="cpu", help="default: %(default)s")
    parser.add_argument("--seeds", type=_seeds, help="such as 0,1,2,3 (default: four, of cpu two, of smoke one)")
    parser.add_argument("--data", help="the rows of this data set alone")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder (default: %(default)s)")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of TensorFlow Datasets")
    parser.add_argument("--omniglot-mat", metavar="FILE", help="OMNIGLOT's chardata.mat, if already at hand")
    arguments = parser.parse_args(argv)
    arguments.seeds = arguments.seeds or DEFAULT_SEEDS[arguments.scale]
    return arguments


def _seeds(text):
    if not text:
        raise argparse.ArgumentTypeError("give at least one seed")
    return [seed(part) for part in text.split(",")]


def reproduce(arguments, verbose="auto"):
    """Runs what is missing of a table or figure and writes it: of a figure, the scores of its models and the pictures.

    Args:
        arguments: see `parse_arguments`.
        verbose: as in `keras.Model.fit`.

    Returns:
        Path of the Markdown file.

    Raises:
        UserError: for a mistake that the user can put right, such as when no data set that it needs is at hand.
    """
    described = experiments.read_experiments()
    scale = described.scales[arguments.scale]
    experiment = (described.tables | described.figures)[arguments.what]
    rows = [row for row in experiment.rows if arguments.data in (None, row.data)]
    if not rows:
        raise UserError(f"{arguments.what} has no rows of {arguments.data}")
    folder = arguments.output / arguments.scale
    data, missing = _read_data(arguments, {row.data for row in rows})
    done = []
    for row in (row for row in rows if row.data in data):
        results = [
            experiments.run_row(row, scale, arguments.scale, number, data[row.data], folder / "runs", verbose)
            for number in arguments.seeds
        ]
        done.append((row, results))
    name = arguments.what if arguments.data is None else f"{arguments.what}_{arguments.data}"
    title = re.sub(r"(\D+)(\d+)", r"\1 \2", arguments.what).capitalize()
    shown = []
    if arguments.what in described.figures:
        for number, (row, _) in enumerate(done, 1):
            picture = folder / f"{name}_{number}.png"
            test = data[row.data][2]
            experiments.draw_row(experiment, row, scale, arguments.seeds, test, folder / "runs", picture)
            shown.append(f"{row.data}, {row.system}: ![{experiment.title}]({picture.name})\n")
    cells = [experiments.summarise(row, results) for row, results in done]
    title = f"{title}: {experiment.title} ({arguments.scale} scale)"
    experiments.write_table(folder / name, title, cells, [*shown, *_notes(arguments, done), *missing])
    return (folder / name).with_suffix(".md")


def _read_data(arguments, names):
    """The images of each data set that is at hand, and a line for each that is not."""
    data, missing = {}, []
    for name in sorted(names):
        try:
            data[name] = read_images(name, arguments.data_dir, None, arguments.omniglot_mat)
        except UserError as error:
            missing.append(f"{name} was not run: {error}")
    if not data:
        raise UserError(missing[0])
    return data, missing


def _notes(arguments, done):
    """What one must know to read the numbers, as lines of Markdown."""
    results = {row.data: results[0] for row, results in done}
    seen = [
        f"{name}: {result['steps']:,} steps, {result['images_seen']:,} images seen; {result['estimator']} on "
        f"{result['test_images']:,} test images, the standard error over them about "
        f"{result['nats_standard_error']:.2f} nats."
        for name, result in results.items()
    ]
    seeds = ", ".join(map(str, arguments.seeds))
    small = [] if arguments.scale == "paper" else ["Small scale: not comparable with the paper's numbers."]
    return [
        f"Means over the seeds {seeds}; in parentheses, standard deviations over them.",
        "",
        *(f"- {line}" for line in (*seen, f"Hardware: {experiments.hardware()}.", *small)),
    ]


def main(argv=None):
    """Runs the command.

    Args:
        argv: list of str; by default the arguments of the process.

    Raises:
        SystemExit: with code 2 and one line on standard error, for a mistake that the user can put right.
    """
    with told_in_one_line():
        path = reproduce(parse_arguments(argv))
        print(path.read_text())
        print(f"wrote {path}, and beside it .csv and .json; the runs are in {path.parent / 'runs'}")


if __name__ == "__main__":
    main()
