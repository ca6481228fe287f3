"""The figures of the paper: images of trained models, and plots of the metrics of their runs.

`systems.yaml` names these functions.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dvpvae_tf import DVPVAE, pictures
from dvpvae_tf.experiments.descriptions import Row
from dvpvae_tf.files import read_csv, write_atomically
from dvpvae_tf.models.loading import load_model

Done = tuple[Row, list[Path], list[dict[str, float]]]  # a row, and the run folders and scores of all seeds

# Rows of images for `pictures.grid`, from the models of all seeds and the test images.


def samples_with_pseudoinputs(models: list[DVPVAE], images: np.ndarray) -> list[np.ndarray]:
    """Pseudoinputs, and below them the samples made from them (Figure 3)."""
    drawn = models[0].sample_with_pseudoinputs(32)
    return pictures.rows_of_samples(drawn.images, drawn.pseudoinputs, columns=16)


def samples(models: list[DVPVAE], images: np.ndarray) -> list[np.ndarray]:
    """Samples (Figure 9)."""
    return pictures.rows_of_samples(models[0].sample(128), columns=16)


def pseudoinputs(models: list[DVPVAE], images: np.ndarray) -> list[np.ndarray]:
    """Pseudoinputs drawn from the prior (Figure 10)."""
    drawn = models[0].sample_with_pseudoinputs(128).pseudoinputs
    return pictures.rows_of_samples(np.asarray(drawn), columns=16)


def partial_reconstructions(models: list[DVPVAE], images: np.ndarray) -> list[np.ndarray]:
    """Reconstructions from u alone, then from ever more latents (Figure 4)."""
    return list(pictures.partial_reconstructions(models[0], images[:16]).values())


def samples_of_one_pseudoinput(models: list[DVPVAE], images: np.ndarray) -> list[np.ndarray]:
    """A column for each seed: a pseudoinput, and below it samples that share it (Figure 6)."""
    columns = [pictures.samples_of_one_pseudoinput(model) for model in models]
    return list(np.stack(columns, axis=1))


OF_IMAGES = {
    function.__name__: function
    for function in (
        samples_with_pseudoinputs,
        samples,
        pseudoinputs,
        partial_reconstructions,
        samples_of_one_pseudoinput,
    )
}


def save_images(path: Path, draw: str, runs: list[Path], images: np.ndarray) -> None:
    """Draws the images of one row of a figure.

    Args:
        path: the PNG file to write.
        draw: a key of `OF_IMAGES`.
        runs: the run folders, one for each seed.
        images: uint8 array `[N, D, D, C]`, the test images.

    Raises:
        UserError: if it cannot be written.
    """
    rows = OF_IMAGES[draw]([load_model(run) for run in runs], images)
    write_atomically(path, lambda temporary: pictures.save(temporary, rows))


# Plots, from a list of (row, run folders of all seeds, results of all seeds).


def bound_by_size(figure: Figure, done: list[Done]) -> None:
    """The bound against the size of the pseudoinput, a line for each type and prior (Figure 5)."""
    names = sorted({row.data for row, _, _ in done})
    for name, axes in zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True):
        lines: dict[str, list[tuple[int, float, float]]] = {}
        for row, _, results in done:
            if row.data == name:
                pseudoinput, prior, size = row.system.split(", ")
                nats = [result["nats"] for result in results]
                lines.setdefault(f"{pseudoinput}, {prior}", []).append(
                    (int(size), float(np.mean(nats)), _deviation(nats))
                )
        for label, points in lines.items():
            sizes, means, deviations = zip(*sorted(points), strict=True)
            axes.errorbar(sizes, means, deviations, label=label, marker="o", capsize=3)
        axes.set(title=name, xlabel="size of u", ylabel="-log p(x), nats (iwae)", xticks=sizes)
        axes.legend()


def gradient_norms(figure: Figure, done: list[Done]) -> None:
    """The norm of the gradient at each step, first seed (Figure 7)."""
    axes = figure.subplots()
    for row, runs, _ in done:
        norms = [float(line["gradient_norm"]) for line in read_csv(runs[0] / "gradient_norms.csv")]
        axes.plot(range(1, len(norms) + 1), norms, label=row.system, linewidth=1)
    axes.set(xlabel="step", ylabel="norm of the gradient, before clipping", yscale="log")
    axes.legend()


def losses(figure: Figure, done: list[Done]) -> None:
    """The negative ELBO in training and validation after each epoch, first seed (Figure 8)."""
    panels = figure.subplots(1, 2, sharey=True)
    for axes, key, title in zip(panels, ("bits_per_dim", "val_bits_per_dim"), ("training", "validation"), strict=True):
        for row, runs, _ in done:
            values = [float(line[key]) for line in read_csv(runs[0] / "metrics.csv")]
            axes.plot(range(1, len(values) + 1), values, label=row.system, marker=".")
        axes.set(title=title, xlabel="epoch", yscale="log")
    panels[0].set_ylabel("negative ELBO, bits per dimension")
    panels[0].legend()


PLOTS = {function.__name__: function for function in (bound_by_size, gradient_norms, losses)}


def save_plot(path: Path, draw: str, done: list[Done]) -> None:
    """Draws a figure that plots numbers.

    Args:
        path: the PNG file to write.
        draw: a key of `PLOTS`.
        done: the rows, with the run folders and the scores of all seeds.

    Raises:
        UserError: if it cannot be written.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    PLOTS[draw](figure, done)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=120))


def _deviation(values: list[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
