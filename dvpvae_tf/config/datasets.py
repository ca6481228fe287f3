"""The names of data sets, and what is known of each before it is read."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from dvpvae_tf.errors import UserError, did_you_mean


class NamedDataset(NamedTuple):
    """The size of a data set that is known before it is read, and how it is read.

    Attributes:
        image_size: side of its images, in pixels.
        image_channels: 1 for grey, 3 for colour.
        training_images: how many it has to train on.
        reader: key of `dvpvae_tf.data.registry.SOURCES`.
    """

    image_size: int
    image_channels: int
    training_images: int
    reader: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images."""
        return self.image_size, self.image_size, self.image_channels


NAMED_DATASETS = {
    "mnist5k": NamedDataset(28, 1, 4_000, "mnist5k"),
    "mnist": NamedDataset(28, 1, 55_000, "tfds"),
    "omniglot": NamedDataset(28, 1, 23_345, "omniglot"),
    "cifar10": NamedDataset(32, 3, 45_000, "tfds"),
}
DEFAULT_DATASET = "mnist5k"
PREFIXES = ("tfds", "folder")  # each the reader of what follows its colon
# Which options say where and how each reader finds images; of a named data set only its own image_size is right.
OPTIONS_OF_READERS = {
    "mnist5k": {"image_size"},
    "omniglot": {"image_size", "data_dir", "omniglot_mat"},
    "tfds": {"image_size", "data_dir"},
    "folder": {"image_size", "background", "skip_broken"},
}


def find_reader(name: str, image_size: int | None = None) -> tuple[str, str]:
    """Finds out how a data set is read.

    Args:
        name: see `dvpvae_tf.data.load_dataset`.
        image_size: side in pixels that its images are asked for in, or None.

    Returns:
        The key of its reader in `dvpvae_tf.data.registry.SOURCES`, and its name in TFDS or its folder.

    Raises:
        UserError: if there is no such data set, or it is a named one whose images have another side.
    """
    if name in NAMED_DATASETS:
        dataset = NAMED_DATASETS[name]
        if image_size not in (None, dataset.image_size):
            raise UserError(f"image_size is {image_size}, but images of {name} have side {dataset.image_size}")
        return dataset.reader, name
    prefix, _, place = name.partition(":")
    if prefix in PREFIXES and place:
        return prefix, place
    choices = ", ".join((*NAMED_DATASETS, "tfds:NAME", "folder:PATH"))
    raise UserError(f"unknown data set {name}{did_you_mean(name, NAMED_DATASETS)}: give one of {choices}")


def options_of(name: str) -> set[str]:
    """Lists the options that say where and how a data set is read.

    Args:
        name: see `dvpvae_tf.data.load_dataset`.

    Returns:
        The names of those that it takes.

    Raises:
        UserError: if there is no such data set.
    """
    return OPTIONS_OF_READERS[find_reader(name)[0]]


def check_options(name: str, given: Mapping[str, Any]) -> None:
    """Checks that a data set takes the options that a user has given for it.

    Args:
        name: see `dvpvae_tf.data.load_dataset`.
        given: options by name; those without a value (None, False) count as not given.

    Raises:
        UserError: if there is no such data set, or it takes no such option.
    """
    known = options_of(name)
    unused = sorted(option for option, value in given.items() if value and option not in known)
    if unused:
        raise UserError(f"{name} takes no {' and no '.join(unused)}: leave out what is for other data")
