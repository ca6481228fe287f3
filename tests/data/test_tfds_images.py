"""Data sets of TFDS: a tiny one made here, the real MNIST and CIFAR-10 of ../shared, and no network."""

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

from dvpvae_tf.data import load_dataset
from dvpvae_tf.errors import UserError


class TinyBuilder(tfds.core.GeneratorBasedBuilder):
    """Images of one value each, their number in their split."""

    VERSION = tfds.core.Version("1.0.0")
    SHAPE = (6, 6, 3)
    SPLITS = {"train": 40, "test": 4}

    def _info(self):
        image = tfds.features.Image(shape=self.SHAPE)
        return tfds.core.DatasetInfo(
            builder=self,
            description="For tests.",
            features=tfds.features.FeaturesDict({"image": image, "label": tfds.features.Scalar(np.int64)}),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in self.SPLITS.items()}

    def _generate_examples(self, count):
        for index in range(count):
            shape = [side or 6 + index % 3 for side in self.SHAPE]
            yield index, {"image": np.full(shape, index, np.uint8), "label": index}


class TinySquares(TinyBuilder):
    """A training and a test split."""


class TinyThree(TinyBuilder):
    """A validation split of its own."""

    SPLITS = {"train": 40, "validation": 7, "test": 4}


class TinyTrain(TinyBuilder):
    """A training split only."""

    SPLITS = {"train": 40}


class TinyMixed(TinyBuilder):
    """Images of several sizes."""

    SHAPE = (None, None, 1)


class TinyTest(TinyBuilder):
    """No training split."""

    SPLITS = {"test": 4}


def values_of(dataset):
    return [int(image.flat[0]) for batch in dataset.as_numpy_iterator() for image in batch]


@pytest.mark.parametrize(
    ("name", "train", "validation", "test"),
    [
        ("tiny_squares", range(36), range(36, 40), range(4)),
        ("tiny_three", range(40), range(7), range(4)),
        ("tiny_train", range(33), range(33, 36), range(36, 40)),
    ],
)
def test_splits_a_data_set_lacks_are_taken_from_the_end_of_its_training_split(tmp_path, name, train, validation, test):
    parts = load_dataset(f"tfds:{name}", 1, data_dir=tmp_path)
    assert parts[0].element_spec.shape == (1, 6, 6, 3)
    assert sorted(values_of(parts[0])) == list(train)
    assert values_of(parts[1]) == list(validation)
    assert values_of(parts[2]) == list(test)


def test_image_size_resizes(tmp_path):
    with pytest.raises(UserError, match="tiny_mixed are not squares of one size: give image_size"):
        load_dataset("tfds:tiny_mixed", 4, data_dir=tmp_path)
    assert not (tmp_path / "tiny_mixed").exists()
    train, _, test = load_dataset("tfds:tiny_mixed", 4, data_dir=tmp_path, image_size=5)
    assert train.element_spec.shape == (4, 5, 5, 1)
    assert values_of(test) == [0, 1, 2, 3]
    smaller, _, _ = load_dataset("tfds:tiny_squares:1.0.0", 4, data_dir=tmp_path, image_size=3)
    assert smaller.element_spec.shape == (4, 3, 3, 3)


def test_mistakes_with_a_tfds_name_are_told(tmp_path):
    for name, message in [
        ("mnits", "TFDS has no data set mnits: did you mean mnist"),
        ("mnist/nonsense", "TFDS cannot find mnist/nonsense: .*nonsense not found"),
        ("mnist:9.9.9", "TFDS cannot find mnist:9.9.9: .*only: 3.0.1"),
        ("gtzan", "gtzan has no feature `image` of 8-bit images"),
        ("tiny_test", "tiny_test has no split `train`"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            load_dataset(f"tfds:{name}", 4, data_dir=tmp_path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "tfds:kmnist", "omniglot"])
def test_no_data_and_no_network_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capfd, name):
    def no_network(*arguments, **options):
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "head", no_network)
    with pytest.raises(UserError, match="is not in .* there is no network to") as error:
        load_dataset(name, 100, data_dir=tmp_path / "data")
    line = str(error.value)
    assert "\n" not in line and str(tmp_path / "data") in line and "mnist5k, which needs nothing" in line
    assert ("chardata.mat" if name == "omniglot" else "tensorflow_datasets") in line
    assert not (tmp_path / "data").exists()
    output = "".join(capfd.readouterr())
    assert "Traceback" not in output and "Retrying" not in output


def test_a_data_set_that_cannot_be_prepared_gives_a_one_line_error(tmp_path, monkeypatch):
    def broken(self, dl_manager):
        raise requests.ConnectionError("connection lost\nhalf-way")

    monkeypatch.setattr(TinySquares, "_split_generators", broken)
    with pytest.raises(UserError, match=r"cannot be fetched \(.*connection lost half-way") as error:
        load_dataset("tfds:tiny_squares", 4, data_dir=tmp_path)
    assert "\n" not in str(error.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "shape", "sizes", "validation_split", "options"),
    [
        ("mnist", (500, 28, 28, 1), (110, 10, 20), "train[55000:]", {}),
        # The shared copy is a subset, so validation is its last tenth.
        ("cifar10", (100, 32, 32, 3), (45, 5, 10), "train[4500:]", {"horizontal_flip": True}),
    ],
)
def test_the_real_data(shared, name, shape, sizes, validation_split, options):
    folder = shared / "data" / "tfds"
    train, validation, test = load_dataset(name, shape[0], data_dir=folder, **options)
    assert train.element_spec.shape == shape
    assert (train.cardinality(), validation.cardinality(), test.cardinality()) == sizes
    last = tfds.load(name, data_dir=folder, split=validation_split, download=False)
    expected = np.stack([example["image"] for example in last.as_numpy_iterator()])
    np.testing.assert_array_equal(np.concatenate(list(validation.as_numpy_iterator())), expected)
