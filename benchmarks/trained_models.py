"""Evaluates trained models on test images and writes a page for `docs/results/`; `--help` lists the options.

Each model is evaluated with every estimator on the same images. The page names the prior over u and its steps.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from named_models import add_models, load_models
from pages import check_has_files, command_block, named_run, written_on
from plots import axes_of_picture

from dvpvae_tf import evaluation
from dvpvae_tf.data.pipelines import read_images
from dvpvae_tf.errors import exit_on_error
from dvpvae_tf.files import check_output, markdown_table, read_csv, write_text

# As cited in the paper or in their own reports, of other budgets: estimates of -log p(x) in nats.
OTHERS = [
    ("DVP-VAE (paper, Table 1; no bound)", 77.10),
    ("Ladder VAE (paper, Table 1; no bound)", 78.85),
    ("NVAE", 78.01),
    ("BIVA", 78.41),
    ("Efficient-VDVAE", 79.09),
]


def parse_arguments():
    parser = argparse.ArgumentParser(description="Measure trained models on test images, with every estimator.")
    add_models(parser)
    parser.add_argument("--dataset", default="mnist", help="as in training (default: %(default)s)")
    parser.add_argument("--data-dir", metavar="FOLDER", help="folder of TensorFlow Datasets")
    parser.add_argument("--limit", type=int, default=1000, help="test images (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=100, help="K of iwae and published (default: %(default)s)")
    parser.add_argument(
        "--published-limit", type=int, default=200, help="the test images of published (default: %(default)s)"
    )
    parser.add_argument("--ancestral-limit", type=int, help="the test images of --ancestral (default: all of --limit)")
    parser.add_argument("--more-samples", type=int, metavar="K", help="a larger K for iwae, too, without --ancestral")
    parser.add_argument("--more-limit", type=int, default=200, help="its test images (default: %(default)s)")
    parser.add_argument(
        "--curves",
        nargs="+",
        default=[],
        type=named_run,
        metavar="NAME=RUN",
        help="a label, and the run folder to draw the learning of",
    )
    parser.add_argument("--batch-size", type=int, default=500, help="rows computed at a time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.md", help="table to write, JSON beside it")
    return parser.parse_args()


def measure(model, steps, images, arguments):
    """Evaluates one model: the summaries of all estimators, and its layers."""
    settings = _settings(steps, arguments)
    statistics = evaluation.layer_statistics(model, images, arguments.seed)
    results = {
        "iwae": evaluation.iwae(model, images, arguments.samples, **settings),
        "elbo": evaluation.elbo(model, images, samples=1, **settings),
        "published": evaluation.published(model, images[: arguments.published_limit], arguments.samples, **settings),
    }
    return {
        "prior": _prior_of(model, steps),
        "images": len(images),
        "parameters": model.num_parameters,
        **{name: result.summary() for name, result in results.items()},
        "estimates": _rounded(results["iwae"].estimates),
        "kl_per_layer": [float(value) for value in statistics.kl],
        "active_units": float(statistics.all_active_units),
    }


def measure_more(model, steps, images, arguments):
    """Evaluates one model with the larger K."""
    images = images[: arguments.more_limit]
    result = evaluation.iwae(model, images, arguments.more_samples, **_settings(steps, arguments))
    return {**result.summary(), "estimates": _rounded(result.estimates)}


def _rounded(estimates):
    return [round(float(value), 4) for value in estimates]


def _settings(steps, arguments):
    return {"steps": steps, "seed": arguments.seed, "batch_size": arguments.batch_size}


def _prior_of(model, steps):
    if model.prior is None:
        return "none"
    if model.prior.process_name is None:
        return f"mixture of {model.prior.components}"
    return f"diffusion, {model.prior.process_name}, T = {model.check_steps(steps)}"


def draw_curves(runs, path):
    """Draws the validation bound of each epoch of several runs, up to 50 nats above the best."""
    best = math.inf
    with axes_of_picture(path, "epoch", "validation negative ELBO, nats") as axes:
        for run in runs:
            bounds = [float(row["val_negative_elbo"]) for row in read_csv(run.folder / "metrics.csv")]
            axes.plot(range(1, len(bounds) + 1), bounds, marker="o", markersize=4, label=run.name)
            best = min(best, *bounds)
        axes.set_ylim(best - 2, best + 50)


def _shown(summary):
    return f"{summary['mean']:.2f} ± {summary['standard_error']:.2f}"


def as_markdown(measured, arguments):
    lines = [
        f"# {arguments.dataset}: trained models on {arguments.limit:,} test images",
        "",
        f"{written_on()} All numbers are nats for each image: mean and standard error over the images. "
        f"K = {arguments.samples} for `iwae` and `published`; the negative ELBO and its terms are from one draw of the "
        f"noise. Seed {arguments.seed}. Lower is better. `published` is the authors' estimate, which "
        "is no bound. With a diffusion prior it always takes the ancestral process. It is for the first "
        f"{min(arguments.published_limit, arguments.limit)} images.",
        "",
        *_bounds(measured),
        *_differences(measured),
    ]
    more = {name: each["more"] for name, each in measured.items() if "more" in each}
    if more:
        lines += ["", f"`iwae` with K = {arguments.more_samples} on the first {arguments.more_limit:,} images:", ""]
        lines += markdown_table(["model", "iwae"], [[name, _shown(each["nats"])] for name, each in more.items()])
        lines += _differences(more)
    lines += ["", "The terms of the negative ELBO, and the KL of each layer from z_L to z_1, nats:", ""]
    lines += _terms(measured)
    if arguments.dataset == "mnist":
        lines += ["", "Other work, as its authors report it, after far longer trainings:", ""]
        lines += markdown_table(["model", "nats"], [[name, f"{value:.2f}"] for name, value in OTHERS])
    if arguments.curves:
        lines += ["", f"![The validation bound of each epoch]({arguments.output.with_suffix('.png').name})", ""]
        lines += ["*The validation bound in continuous time, with averaged weights, after each epoch.*"]
    return "\n".join([*lines, "", *command_block(), ""])


def _bounds(measured):
    return markdown_table(
        ["model", "prior over u", "images", "iwae", "negative ELBO", "published", "active units"],
        [
            [
                name,
                each["prior"],
                f"{each['images']:,}",
                *(_shown(each[key]["nats"]) for key in ("iwae", "elbo", "published")),
                f"{each['active_units']:.1%}",
            ]
            for name, each in measured.items()
        ],
    )


def _terms(measured):
    terms = ("reconstruction", "kl_z", "kl_u")
    return markdown_table(
        ["model", "reconstruction", "KL of z", "KL of u", "KL of each layer"],
        [
            [name, *(f"{each['elbo'][key]['mean'] if key in each['elbo'] else 0:.2f}" for key in terms)]
            + [", ".join(f"{value:.2f}" for value in each["kl_per_layer"])]
            for name, each in measured.items()
        ],
    )


def _differences(measured):
    """Lists how far the `iwae` of each model is from that of the first, over the images that both have."""
    (first, of_first), *others = measured.items()
    lines = []
    for name, each in others:
        shared = min(len(each["estimates"]), len(of_first["estimates"]))
        difference = np.subtract(each["estimates"][:shared], of_first["estimates"][:shared])
        error = difference.std(ddof=1) / math.sqrt(shared)
        lines.append(f"* {name}: {difference.mean():+.2f} ± {error:.2f} ({shared:,} images)")
    heading = f"Paired difference of `iwae` from {first!r} over the images that both have, nats:"
    return ["", heading, "", *lines] if lines else []


def main():
    arguments = parse_arguments()
    with exit_on_error():
        check_output(arguments.output, [".md"])
        check_has_files(arguments.curves, "metrics.csv")
        models = load_models(arguments)
        images = read_images(arguments.dataset, arguments.data_dir)[2][: arguments.limit]
        measured = {}
        for named, model in models:
            print(named.name)
            if named in arguments.ancestral:
                measured[named.name] = measure(model, named.steps, images[: arguments.ancestral_limit], arguments)
            else:
                measured[named.name] = measure(model, named.steps, images, arguments)
                if arguments.more_samples:
                    measured[named.name]["more"] = measure_more(model, named.steps, images, arguments)
            write_text(arguments.output.with_suffix(".json"), json.dumps(measured) + "\n")
        if arguments.curves:
            draw_curves(arguments.curves, arguments.output.with_suffix(".png"))
        write_text(arguments.output, as_markdown(measured, arguments))


if __name__ == "__main__":
    main()
