"""The look of the pictures that the benchmarks draw; needs matplotlib."""

import contextlib

import matplotlib.pyplot as plt
import numpy as np


@contextlib.contextmanager
def axes_of_picture(path, x_label, y_label):
    """Yields matplotlib axes, and writes what is drawn in them."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    yield axes
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def draw_curve(axes, x, points, color, label):
    """Draws pairs of a mean and a standard error, with bars of two standard errors."""
    means, errors = np.transpose(points)
    axes.errorbar(x, means, 2 * errors, color=color, marker="o", markersize=4, capsize=2, label=label)
