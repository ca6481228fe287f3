"""The type of the shapes that Keras passes to `build` and `compute_output_shape`."""

from typing import Any

Shape = tuple[Any, ...]  # integers, and None for the batch
