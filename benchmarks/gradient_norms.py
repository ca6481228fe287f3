r"""Shows the norm of the gradient over whole trainings, as Figure 7 of the paper does.

    python benchmarks/gradient_norms.py OMNIGLOT=runs/omniglot CIFAR-10=runs/cifar10 --output norms.md

It writes a table, and a picture beside it with the norm of each step before it is clipped.
"""

import argparse
from pathlib import Path

import numpy as np
from pages import check_has_files, command_block, named_run, written_on
from plots import axes_of_picture

from dvpvae_tf.config import load_config
from dvpvae_tf.errors import UserError, exit_on_error
from dvpvae_tf.files import check_output, markdown_table, read_csv, write_text

FIRST_STEPS = 100  # with the high norms of new weights


def parse_arguments():
    parser = argparse.ArgumentParser(description="Compare the norms of the gradient over whole trainings.")
    parser.add_argument("runs", nargs="+", type=named_run, metavar="NAME=RUN", help="a label, and a run folder")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.md", help="table to write, PNG beside it")
    return parser.parse_args()


def norms_of(folder):
    """The norm of the gradient at each step of a run, before it is clipped."""
    return np.array([float(row["gradient_norm"]) for row in read_csv(folder / "gradient_norms.csv")])


def row_of(name, folder, norms):
    """The cells of a run."""
    config, epochs = load_config(folder / "config.yaml"), read_csv(folder / "metrics.csv")
    later = norms[FIRST_STEPS:]
    if not len(later):
        raise UserError(f"{folder} has {len(norms)} steps: the table needs more than {FIRST_STEPS}")
    bounds = [float(row["val_bits_per_dim"]) for row in epochs]
    return [
        name,
        f"{len(norms):,} of {config.batch_size} images",
        f"{norms[:FIRST_STEPS].max():,.0f}",
        f"{np.median(later):.2f}, {np.quantile(later, 0.99):.2f}, {later.max():.2f}",
        f"{config.gradient_clip_norm:g}",
        f"{np.mean(later > config.gradient_clip_norm):.1%}",
        f"{sum(float(row['skipped_steps']) for row in epochs):.0f}",
        f"{bounds[0]:.3f}, {min(bounds):.3f}, {bounds[-1]:.3f}",
    ]


COLUMNS = [
    "run",
    "steps",
    f"largest norm, first {FIRST_STEPS} steps",
    "later: median, 99th percentile, largest",
    "clipped at",
    "later steps clipped",
    "skipped steps",
    "validation bound, bits per dimension: first, best, last epoch",
]


def as_markdown(rows, picture):
    return "\n".join(
        [
            "# The norm of the gradient over whole trainings",
            "",
            f"{written_on()} The norm is that of each step, before it is clipped. A step whose gradient is not finite "
            "is skipped.",
            "",
            *markdown_table(COLUMNS, rows),
            "",
            f"![The norm of the gradient at each step]({picture.name})",
            "",
            *command_block(),
            "",
        ]
    )


def main():
    arguments = parse_arguments()
    with exit_on_error():
        check_output(arguments.output, [".md"])
        check_has_files(arguments.runs, "config.yaml", "metrics.csv", "gradient_norms.csv")
        picture = arguments.output.with_suffix(".png")
        norms = {run: norms_of(run.folder) for run in arguments.runs}
        text = as_markdown([row_of(*run, norms[run]) for run in arguments.runs], picture)
        with axes_of_picture(picture, "step", "norm of the gradient, before clipping") as axes:
            axes.set_yscale("log")
            for run, values in norms.items():
                axes.plot(range(1, len(values) + 1), values, linewidth=0.6, label=run.name)
        write_text(arguments.output, text)


if __name__ == "__main__":
    main()
