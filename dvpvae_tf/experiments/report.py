"""Runs a table or figure of the paper and writes it."""

from dvpvae_tf.backend import quiet_tensorflow  # noqa: F401  isort: skip

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dvpvae_tf.data.pipelines import Splits, read_images
from dvpvae_tf.errors import UserError
from dvpvae_tf.evaluation.results import mean_and_error, plus_minus
from dvpvae_tf.experiments import costs, descriptions, figures, runs, tables
from dvpvae_tf.experiments.descriptions import CostScale, Figure, Row, Scale
from dvpvae_tf.files import make_folder, markdown_table

Results = list[list[dict[str, Any]]]  # for each row the scores of each seed
Data = dict[str, Splits]  # by the name of the data set


def reproduce(arguments: argparse.Namespace) -> Path:
    """Runs what is missing of a table or figure and writes it. For a figure it writes the scores and the pictures.

    Args:
        arguments: the parsed options of `python -m dvpvae_tf.reproduce`.

    Returns:
        Path of the Markdown file.

    Raises:
        UserError: for a mistake that the user can put right, such as when no data set that it needs is at hand.
    """
    described = descriptions.read_experiments()
    experiment = described.all()[arguments.what]
    rows = descriptions.rows_of(experiment, arguments.scale)
    names = list(dict.fromkeys(row.data for row in rows))
    if arguments.data not in (None, *names):
        raise UserError(f"{arguments.what} has no rows of {arguments.data}: give --data {' or '.join(names)}")
    rows = [row for row in rows if arguments.data in (None, row.data)]
    data, missing = _read_data(arguments, {row.data for row in rows})
    rows = [row for row in rows if row.data in data]
    path = _path(arguments)
    make_folder(path.parent)
    if arguments.what in described.costs:
        cost_scale = described.costs[arguments.what].scales[arguments.scale]
        results = _measure(arguments, cost_scale, rows, data)
        notes = _notes_on_costs(arguments, cost_scale)
    else:
        results = _train(arguments, described.scales[arguments.scale], rows, data)
        notes = _notes(arguments, zip(rows, results, strict=True))
    if arguments.what in described.tables:
        notes = [*notes, *_paired_differences(arguments, rows)]
    if arguments.what in described.figures:
        notes = [*_draw_images(arguments, described.figures[arguments.what], rows, data), *notes]
    if arguments.what in described.plots:
        notes = [*_draw_plot(arguments, described.plots[arguments.what], rows, results), *notes]
    title = re.sub(r"(\d+)", r" \1", arguments.what).capitalize()
    cells = [tables.summarise(*pair) for pair in zip(rows, results, strict=True)]
    tables.write_table(path, f"{title}: {experiment.title} ({arguments.scale} scale)", cells, [*notes, *missing])
    return path.with_suffix(".md")


def _path(arguments: argparse.Namespace) -> Path:
    """The path of what is written, without suffix."""
    name = arguments.what if arguments.data is None else f"{arguments.what}_{arguments.data}"
    return arguments.output / arguments.scale / name


def _runs_folder(arguments: argparse.Namespace) -> Path:
    """The folder of all runs."""
    return arguments.output / arguments.scale / "runs"


def _train(arguments: argparse.Namespace, scales: dict[str, Scale], rows: list[Row], data: Data) -> Results:
    """For each row the results of all seeds."""
    return [
        [
            runs.run_row(row, scales[row.data], arguments.scale, seed, data[row.data], _runs_folder(arguments))
            for seed in arguments.seeds
        ]
        for row in rows
    ]


def _measure(arguments: argparse.Namespace, scale: CostScale, rows: list[Row], data: Data) -> Results:
    """For each row a list of one result."""
    results = []
    for row in rows:
        print(f"measuring {row.data}, {row.system}", flush=True)
        config = descriptions.row_config(row, scale.overrides.get(row.data, {}), 0, arguments.output)
        train = data[row.data][0]
        results.append([costs.measure_in_new_process(config, train, scale.timed_steps, scale.timed_images)])
    return results


def _draw_images(arguments: argparse.Namespace, figure: Figure, rows: list[Row], data: Data) -> list[str]:
    """Draws the picture of each row, and gives the lines of Markdown that show them."""
    path, lines = _path(arguments), []
    for number, row in enumerate(rows, 1):
        picture = path.with_name(f"{path.name}_{number}.png")
        figures.save_images(picture, figure.draw, _run_folders(arguments, row), data[row.data][2])
        lines.append(f"{row.data}, {row.system}: ![{figure.title}]({picture.name})\n")
    return lines


def _draw_plot(arguments: argparse.Namespace, plot: Figure, rows: list[Row], results: Results) -> list[str]:
    """Draws a plot, and gives the lines of Markdown that show it."""
    picture = _path(arguments).with_suffix(".png")
    folders = [_run_folders(arguments, row) for row in rows]
    figures.save_plot(picture, plot.draw, list(zip(rows, folders, results, strict=True)))
    return [f"![{plot.title}]({picture.name})\n"]


def _run_folders(arguments: argparse.Namespace, row: Row) -> list[Path]:
    return [_runs_folder(arguments) / descriptions.run_name(row, seed) for seed in arguments.seeds]


def _read_data(arguments: argparse.Namespace, names: Iterable[str]) -> tuple[Data, list[str]]:
    """The images of each data set that is at hand, and a line for each that is not."""
    data, missing = {}, []
    for name in sorted(names):
        try:
            data[name] = read_images(name, arguments.data_dir, omniglot_mat=arguments.omniglot_mat)
        except UserError as error:
            missing.append(f"{name} was not run: {error}")
    if not data:
        raise UserError(missing[0])
    return data, missing


def _notes_on_costs(arguments: argparse.Namespace, scale: CostScale) -> list[str]:
    """Notes below a table of costs, as lines of Markdown."""
    changed = [
        f"{name}: {descriptions.as_text(changes)}."
        for name, changes in scale.overrides.items()
        if arguments.data in (None, name)
    ]
    return [
        f"- An epoch: the median of {scale.timed_steps} training steps times the steps of the whole training set.",
        f"- Sampling: {scale.timed_images:,} images in batches of at most 100. Each system in a process of its own.",
        "- Memory: the peak of the GPU, or of the whole process where there is none.",
        f"- Hardware: {runs.hardware()}; the paper's: an A100.",
        *(f"- Changed settings of {line}" for line in changed if arguments.scale != "paper"),
    ]


def _paired_differences(arguments: argparse.Namespace, rows: list[Row]) -> list[str]:
    """Lines of Markdown: how each system differs from the first one of its data set on the same test images."""
    cells: list[list[str]] = []
    first: dict[str, Any] = {}
    for row in rows:
        bounds = [runs.read_test_bounds(row, folder) for folder in _run_folders(arguments, row)]
        reference, name = first.setdefault(row.data, (bounds, row.system))
        if reference is not bounds:
            cells += [
                [row.data, row.system, name, str(seed), *_difference(*pair)]
                for seed, *pair in zip(arguments.seeds, bounds, reference, strict=True)
            ]
    if not cells:
        return []
    names = [tables.COLUMNS[name].removesuffix(", nats") for name in runs.TEST_BOUNDS_COLUMNS]
    return [
        "",
        "Differences on the same test images, in nats, with standard errors over the images; less is better:",
        "",
        *markdown_table(["data", "system", "minus", "seed", *names], cells),
    ]


def _difference(bounds: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> list[str]:
    return [plus_minus(mean_and_error(bounds[name] - others[name])) for name in runs.TEST_BOUNDS_COLUMNS]


def _standard_error(result: dict[str, Any]) -> str:
    error = result["nats_standard_error"]  # None where there is one image alone
    return "" if error is None else f", the standard error over them about {error:.2f} nats"


def _notes(arguments: argparse.Namespace, done: Iterable[tuple[Row, list[dict[str, Any]]]]) -> list[str]:
    """Notes below a table of scores, as lines of Markdown."""
    results = {row.data: results[0] for row, results in done}
    seen = [
        f"{name}: {result['steps']:,} steps, {result['images_seen']:,} images seen; {result['estimator']} on "
        f"{result['test_images']:,} test images{_standard_error(result)}; the published estimate on "
        f"{result['published_images']:,}."
        for name, result in results.items()
    ]
    seeds = ", ".join(map(str, arguments.seeds))
    small = [] if arguments.scale == "paper" else ["Small scale: not comparable with the paper's numbers."]
    return [
        f"Means over the seeds {seeds}; in parentheses, standard deviations over them.",
        "",
        *(f"- {line}" for line in (*seen, f"Hardware: {runs.hardware()}.", *small)),
    ]
