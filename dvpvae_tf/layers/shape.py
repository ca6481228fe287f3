"""The type of the shapes that Keras passes to `build` and `compute_output_shape`."""

Shape = tuple[int | None, ...]
