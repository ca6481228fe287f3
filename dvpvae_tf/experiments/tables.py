"""The tables of the experiments: what a row shows, and the files that are written."""

from pathlib import Path
from typing import Any

import numpy as np

from dvpvae_tf.experiments.descriptions import Row
from dvpvae_tf.files import markdown_table, write_csv, write_json, write_text

COLUMNS = {
    "data": "data",
    "system": "system",
    "parameters": "parameters",
    "nats": "iwae, nats",
    "bits_per_dim": "iwae, bits per dimension",
    "negative_elbo": "negative ELBO, T steps, nats",
    "continuous_time_negative_elbo": "negative ELBO, continuous time, nats",
    "reconstruction": "reconstruction, nats",
    "kl_z": "KL of z, nats",
    "kl_u": "KL of u, nats",
    "published": "published estimate (not a bound), nats",
    "active_units": "active units",
    "epoch_seconds": "seconds an epoch",
    "memory_gb": "peak memory, GB",
    "sample_seconds": "seconds for 1,000 samples",
    "paper": "the paper",
}


def summarise(row: Row, results: list[dict[str, float | str]]) -> dict[str, str]:
    """Makes the row of a table: means over the seeds, with standard deviations where there are several.

    Args:
        row: the system and its data set.
        results: the scores of each seed.

    Returns:
        A cell for each key of `COLUMNS`.
    """
    cells = {"data": row.data, "system": row.system, "paper": _of_paper(row.paper)}
    for key in COLUMNS:
        values: list[Any] = [result[key] for result in results if key in result]
        if key not in cells and values:
            cells[key] = _mean_and_deviation(key, values)
    return {key: cells.get(key, "") for key in COLUMNS}


def _of_paper(numbers: dict[str, float | str]) -> str:
    units = {
        "nats": "{:.2f} nats",
        "bits_per_dim": "{:.2f} bits per dimension",
        "active_units": "{:.1%} active",
        "epoch_seconds": "{:.0f} s an epoch",
        "memory_gb": "{:.0f} GB",
        "sample_seconds": "{:.1f} s for 1,000 samples",
    }
    parts = [pattern.format(numbers[key]) for key, pattern in units.items() if key in numbers]
    if "deviation" in numbers:
        parts[0] += f" ({numbers['deviation']:.2f})"
    if "parameters" in numbers:
        parts.append(f"{numbers['parameters']} parameters")
    return ", ".join(parts)


def _mean_and_deviation(key: str, values: list[float]) -> str:
    pattern = {"parameters": "{:,.0f}", "active_units": "{:.1%}", "bits_per_dim": "{:.4f}"}.get(key, "{:.2f}")
    mean = pattern.format(np.mean(values))
    if len(values) == 1 or key == "parameters":
        return mean
    return f"{mean} ({pattern.format(np.std(values, ddof=1))})"


def write_table(path: Path, title: str, rows: list[dict[str, str]], notes: list[str]) -> None:
    """Writes a table as Markdown, CSV and JSON.

    Args:
        path: the path without suffix.
        title: the title.
        rows: the cells of each row, see `summarise`. Columns that are empty in all rows are left out.
        notes: lines below the Markdown table.

    Raises:
        UserError: if it cannot be written.
    """
    shown = {key: name for key, name in COLUMNS.items() if any(row[key] for row in rows)}
    lines = markdown_table(list(shown.values()), [[row[key] for key in shown] for row in rows])
    write_text(path.with_suffix(".md"), "\n".join([f"# {title}", "", *lines, "", *notes]) + "\n")
    write_json(path.with_suffix(".json"), {"title": title, "rows": rows, "notes": notes})
    write_csv(path.with_suffix(".csv"), [{name: row[key] for key, name in shown.items()} for row in rows])
