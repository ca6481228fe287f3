"""The 28 x 28 OMNIGLOT of Burda et al., as a TFDS builder and as a file at hand."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import tensorflow_datasets as tfds

from dvpvae_tf.data.tfds_images import prepare, read_splits
from dvpvae_tf.errors import UserError

URL = "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/chardata.mat"
PUBLISHED_SIZES = (24345, 8070)


class Omniglot28(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of the 28 x 28 OMNIGLOT: 24,345 training and 8,070 test images, `omniglot28` to TFDS.

    It takes `<data_dir>/downloads/manual/chardata.mat` where there is one, else it downloads that file and
    checks the number of its images. TFDS checks the file's size and sha256 too once they are in
    `checksums.tsv` beside this module, where a download with
    `tfds.download.DownloadConfig(register_checksums=True)` records them. The order of the file is kept.

    Source: Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016; the drawings are
    those of Lake, Salakhutdinov and Tenenbaum, Science, 2015.
    """

    VERSION = tfds.core.Version("1.0.0")

    @property
    def manual_file(self) -> Path:
        """Path at which a `chardata.mat` fetched by hand is looked for."""
        return self.data_dir_root / "downloads" / "manual" / "chardata.mat"

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten characters of 50 alphabets, grey, 28 x 28.",
            homepage="https://github.com/yburda/iwae",
            features=tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(28, 28, 1))}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        if self.manual_file.exists():
            train, test = read_chardata(self.manual_file)
        else:
            download = dl_manager.download(URL)
            train, test = read_chardata(download)
            if (len(train), len(test)) != PUBLISHED_SIZES:
                sizes = f"{len(train)} + {len(test)} images"
                raise UserError(f"{download}, with {sizes}, is not the published {URL}: remove it and try again")
        return {"train": self._generate_examples(train), "test": self._generate_examples(test)}

    def _generate_examples(self, images: np.ndarray) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        return ((index, {"image": image}) for index, image in enumerate(images))


def read_omniglot(data_dir: str | None = None, omniglot_mat: str | Path | None = None) -> dict[str, np.ndarray]:
    """Reads OMNIGLOT from the file at hand, else from TFDS's prepared data, else by downloading it.

    A file at hand is read each time: data that were prepared from another file are not mistaken for it.

    Args:
        data_dir: TFDS's data_dir, or None for its default.
        omniglot_mat: path of a `chardata.mat`; by default `<data_dir>/downloads/manual/chardata.mat`, if any.

    Returns:
        A dict from `train` and `test` to uint8 arrays [N, 28, 28, 1].

    Raises:
        UserError: if there is no data and no network, or the file is missing, damaged or another one.
    """
    builder = Omniglot28(data_dir=data_dir)
    if omniglot_mat is None and builder.manual_file.exists():
        omniglot_mat = builder.manual_file
    if omniglot_mat is not None:
        return dict(zip(("train", "test"), read_chardata(omniglot_mat), strict=True))
    prepare(builder, _remedy(builder), [URL])
    return read_splits(builder)


def read_omniglot_labels(data_dir: str | None = None, omniglot_mat: str | Path | None = None) -> dict[str, np.ndarray]:
    """Reads the alphabets of OMNIGLOT's images, in their order, from the file at hand.

    Args:
        data_dir: see `read_omniglot`.
        omniglot_mat: see `read_omniglot`.

    Returns:
        A dict from `train` and `test` to int64 arrays [N], the alphabets 0 to 49.

    Raises:
        UserError: if there is no file at hand (TFDS's prepared data have no labels), or it is damaged or
            another one.
    """
    builder = Omniglot28(data_dir=data_dir)
    if omniglot_mat is None and not builder.manual_file.exists():
        raise UserError(f"the labels of omniglot are only in its chardata.mat: {_remedy(builder)}")
    labels = _read_arrays(omniglot_mat or builder.manual_file, ("target", "testtarget"), _columns_to_labels)
    return dict(zip(("train", "test"), labels, strict=True))


def _remedy(builder: Omniglot28) -> str:
    return f"fetch {URL} and put it at {builder.manual_file} or pass its path as omniglot_mat"


def read_chardata(path: str | Path) -> tuple[np.ndarray, ...]:
    """Reads the images of a `chardata.mat`.

    Args:
        path: path of a MATLAB file with the arrays `data` and `testdata` [784, N]: an image a column, its
            pixels in column-major order, in [0, 1].

    Returns:
        Training and test images: uint8 arrays [N, 28, 28, 1], `round(255 v)`.

    Raises:
        UserError: if the file is missing, damaged or another one.
    """
    return _read_arrays(path, ("data", "testdata"), _columns_to_images)


def _read_arrays(
    path: str | Path, names: tuple[str, ...], convert: Callable[[Any], np.ndarray]
) -> tuple[np.ndarray, ...]:
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {path}: fetch it from {URL}")
    try:
        contents = scipy.io.loadmat(path, appendmat=False, variable_names=names)
        return tuple(convert(contents[name]) for name in names)
    except Exception as error:  # the MATLAB reader raises many types for a damaged or foreign file
        raise UserError(f"{path} is damaged or not OMNIGLOT's chardata.mat: fetch it from {URL}") from error


def _columns_to_images(columns: np.ndarray) -> np.ndarray:
    if len(columns) != 784 or not (columns.min() >= 0 and columns.max() <= 1):
        raise ValueError("not 784 values in [0, 1] a column")
    images = columns.reshape((28, 28, -1)).transpose((2, 1, 0))
    return np.round(255 * images).astype(np.uint8)[..., None]


def _columns_to_labels(columns: np.ndarray) -> np.ndarray:
    if len(columns) != 50 or not (np.sort(columns, axis=0) == np.arange(50)[:, None] // 49).all():
        raise ValueError("not 50 values a column, one of them 1 and the others 0")
    return columns.argmax(axis=0)
