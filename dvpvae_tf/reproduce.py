"""The command `python -m dvpvae_tf.reproduce`: runs a table or figure of the paper, the paper's numbers beside ours."""

import argparse
import re
from pathlib import Path

from dvpvae_tf.command_line import add_data_places, seed
from dvpvae_tf.config.parser import Parser
from dvpvae_tf.data.pipelines import read_images
from dvpvae_tf.errors import UserError, exit_on_error
from dvpvae_tf.experiments import costs
from dvpvae_tf.experiments import figures as drawings
from dvpvae_tf.experiments import systems as experiments

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
    parser.add_argument("what", choices=_all(described))
    parser.add_argument("--scale", choices=described.scales, default="cpu", help="default: %(default)s")
    parser.add_argument("--seeds", type=_seeds, help="such as 0,1,2,3 (default: four, of cpu two, of smoke one)")
    parser.add_argument("--data", help="the rows of this data set alone")
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder (default: %(default)s)")
    add_data_places(parser)
    arguments = parser.parse_args(argv)
    arguments.seeds = arguments.seeds or DEFAULT_SEEDS[arguments.scale]
    return arguments


def _all(described):
    return described.tables | described.figures | described.plots | described.costs


def _seeds(text):
    if not text:
        raise argparse.ArgumentTypeError("give at least one seed")
    return [seed(part) for part in text.split(",")]


def reproduce(arguments):
    """Runs what is missing of a table or figure and writes it: of a figure, the scores of its models and the pictures.

    Args:
        arguments: see `parse_arguments`.

    Returns:
        Path of the Markdown file.

    Raises:
        UserError: for a mistake that the user can put right, such as when no data set that it needs is at hand.
    """
    described = experiments.read_experiments()
    experiment = _all(described)[arguments.what]
    rows = experiments.rows_of(experiment, arguments.scale)
    rows = [row for row in rows if arguments.data in (None, row.data)]
    if not rows:
        raise UserError(f"{arguments.what} has no rows of {arguments.data}")
    data, missing = _read_data(arguments, {row.data for row in rows})
    rows = [row for row in rows if row.data in data]
    path = _path(arguments)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {path.parent}: {error.strerror}: give another --output") from error
    if arguments.what in described.costs:
        results = _measure(arguments, experiment.scales[arguments.scale], rows, data)
        notes = _notes_on_costs(arguments, experiment.scales[arguments.scale])
    else:
        results = _train(arguments, described.scales[arguments.scale], rows, data)
        notes = _notes(arguments, zip(rows, results, strict=True))
    if arguments.what in described.figures:
        notes = [*_draw_images(arguments, experiment, rows, data), *notes]
    if arguments.what in described.plots:
        notes = [*_draw_plot(arguments, experiment, rows, results), *notes]
    title = re.sub(r"(\d+)", r" \1", arguments.what).capitalize()
    cells = [experiments.summarise(*pair) for pair in zip(rows, results, strict=True)]
    experiments.write_table(path, f"{title}: {experiment.title} ({arguments.scale} scale)", cells, [*notes, *missing])
    return path.with_suffix(".md")


def _path(arguments):
    """The path of what is written, without suffix."""
    name = arguments.what if arguments.data is None else f"{arguments.what}_{arguments.data}"
    return arguments.output / arguments.scale / name


def _runs(arguments):
    """The folder of all runs."""
    return arguments.output / arguments.scale / "runs"


def _train(arguments, scales, rows, data):
    """For each row the results of all seeds."""
    return [
        [
            experiments.run_row(row, scales[row.data], arguments.scale, seed, data[row.data], _runs(arguments))
            for seed in arguments.seeds
        ]
        for row in rows
    ]


def _measure(arguments, scale, rows, data):
    """For each row a list of one result."""
    results = []
    for row in rows:
        print(f"measuring {row.data}, {row.system}", flush=True)
        config = experiments.row_config(row, scale.overrides.get(row.data, {}), 0, arguments.output)
        train = data[row.data][0]
        results.append([costs.measure_in_new_process(config, train, scale.timed_steps, scale.timed_images)])
    return results


def _draw_images(arguments, figure, rows, data):
    """Draws the picture of each row, and gives the lines of Markdown that show them."""
    path, lines = _path(arguments), []
    for number, row in enumerate(rows, 1):
        picture = path.with_name(f"{path.name}_{number}.png")
        drawings.save_images(picture, figure.draw, _run_folders(arguments, row), data[row.data][2])
        lines.append(f"{row.data}, {row.system}: ![{figure.title}]({picture.name})\n")
    return lines


def _draw_plot(arguments, plot, rows, results):
    """Draws a plot, and gives the lines of Markdown that show it."""
    picture = _path(arguments).with_suffix(".png")
    folders = [_run_folders(arguments, row) for row in rows]
    drawings.save_plot(picture, plot.draw, list(zip(rows, folders, results, strict=True)))
    return [f"![{plot.title}]({picture.name})\n"]


def _run_folders(arguments, row):
    return [_runs(arguments) / experiments.run_name(row, seed) for seed in arguments.seeds]


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


def _notes_on_costs(arguments, scale):
    """What one must know to read the costs, as lines of Markdown."""
    changed = [f"{name}: {experiments.as_text(changes)}." for name, changes in scale.overrides.items()]
    return [
        f"- An epoch: the median of {scale.timed_steps} training steps times the steps of the whole training set.",
        f"- Sampling: {scale.timed_images:,} images in batches of at most 100. Each system in a process of its own.",
        "- Memory: the peak of the GPU, or of the whole process where there is none.",
        f"- Hardware: {experiments.hardware()}; the paper's: an A100.",
        *(f"- Changed settings of {line}" for line in changed if arguments.scale != "paper"),
    ]


def _notes(arguments, done):
    """What one must know to read the scores, as lines of Markdown."""
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
    with exit_on_error():
        path = reproduce(parse_arguments(argv))
        print(path.read_text())
        print(f"wrote {path}, and beside it .csv and .json")


if __name__ == "__main__":
    main()
