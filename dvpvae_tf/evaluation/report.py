"""The results of an evaluation, as a file and as tables for people."""

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from dvpvae_tf.evaluation.results import plus_minus
from dvpvae_tf.files import write_json

TERMS = {
    "diffusion": "diffusion",
    "reconstruction": "reconstruction of u from y_0",
    "prior_kl": "KL of y_1",
    "cross_entropy": "cross-entropy",
    "negative_entropy": "minus the entropy of r(u|x)",
}


def report(results: dict[str, Any], output: Path | None) -> None:
    """Writes results, then prints them, also where they could not be written.

    Args:
        results: as `print_tables` takes them.
        output: the .json file to write, or None.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        if output:
            write_json(output, results)
    finally:
        print_tables(results)


def print_tables(results: dict[str, Any]) -> None:
    """Prints the results of an evaluation for people.

    Args:
        results: what `Part.results` returns, and "feature_distances" where they were asked for.
    """
    console = Console(highlight=False)
    console.print(_bound_table(results))
    console.print(_layer_table(results))
    data = f"{results['images']} images of {results['dataset']} ({results['split']}), seed {results['seed']}"
    print(f"{data}; +- is the standard error over the images")
    print(f"{results['seconds']:.1f} s, {results['image_samples_per_second']:.0f} images x samples per second")
    if "feature_distances" in results:
        found = results["feature_distances"]
        print(
            f"Frechet distance {found['frechet']:.3f}, kernel distance {found['kernel']:.4f} +- "
            f"{found['kernel_standard_error']:.4f} between {found['num_real']} real images and as many generated at "
            f"temperature 1 ({found['features']})"
        )
    if not results["is_bound"]:
        print("The published estimate is not a bound: compare it with Table 1 of the paper only.")


def _bound_table(results: dict[str, Any]) -> Table:
    table = Table("-log p(x)", box=box.SIMPLE_HEAD, show_edge=False)
    for title in ("nats", "bits per dimension"):
        table.add_column(title, justify="right")

    def add(title, value, style=None):
        numbers = (plus_minus(value, digits, scale) for scale, digits in ((1.0, 2), (results["bits_per_nat"], 4)))
        table.add_row(title, *numbers, style=style)

    process = "" if results["steps"] is None else f", T = {results['steps']}, {results['process']}"
    add(results["estimator"], results["nats"], "bold")
    add(f"negative ELBO{process}", results["negative_elbo"])
    if "continuous_time_negative_elbo" in results:
        add("negative ELBO, continuous time", results["continuous_time_negative_elbo"])
    add("reconstruction", results["reconstruction"])
    add("KL of z", results["kl_z"])
    if "kl_u" in results:
        add(f"KL of u{process}", results["kl_u"])
        for name, value in results["kl_u_terms"].items():
            add(f"  {TERMS[name]}", value)
    return table


def _layer_table(results: dict[str, Any]) -> Table:
    table = Table("layer", box=box.SIMPLE_HEAD, show_edge=False)
    for title in ("KL, nats", "active units"):
        table.add_column(title, justify="right")
    for layer, value in results["kl_z_per_layer"].items():
        table.add_row(layer, plus_minus(value), f"{results['active_units_per_layer'][layer]:.0%}")
    table.add_row("all", plus_minus(results["kl_z"]), f"{results['active_units']:.0%}")
    return table
