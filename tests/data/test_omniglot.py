"""The 28 x 28 OMNIGLOT: a file at hand, TFDS's manual folder, a download from a server of our own."""

import functools
import http.server
import threading

import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import checksums

from dvpvae_tf.data import Omniglot28, load_dataset, omniglot
from dvpvae_tf.errors import UserError


def write_chardata(path, train=30, test=7, seed=0, **others):
    """A small file of the published form; returns its upright images [N, 28, 28]."""
    random = np.random.default_rng(seed)
    upright = {"data": random.random((train, 28, 28)), "testdata": random.random((test, 28, 28))}
    columns = {key: images.transpose(0, 2, 1).reshape(-1, 784).T for key, images in upright.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, columns | others)
    return upright


def images_of(dataset):
    return np.concatenate(list(dataset.as_numpy_iterator()))[..., 0]


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves the folder `web` in place of the published address."""
    (tmp_path / "web").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "web")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        monkeypatch.setattr(omniglot, "URL", f"http://127.0.0.1:{running.server_port}/chardata.mat")
        yield tmp_path / "web" / "chardata.mat"
        running.shutdown()


def test_a_given_file_is_read_upright_and_rounded(tmp_path):
    upright = write_chardata(tmp_path / "any name")
    train, validation, test = load_dataset("omniglot", 1, omniglot_mat=tmp_path / "any name")
    assert train.element_spec.shape == (1, 28, 28, 1)
    assert train.cardinality() == 27
    np.testing.assert_array_equal(images_of(validation), np.rint(255 * upright["data"][27:]))
    np.testing.assert_array_equal(images_of(test), np.rint(255 * upright["testdata"]))


def test_validation_is_at_most_the_last_thousand(tmp_path):
    write_chardata(tmp_path / "chardata.mat", train=10_500, test=1)
    train, validation, _ = load_dataset("omniglot", 500, omniglot_mat=tmp_path / "chardata.mat")
    assert (train.cardinality(), validation.cardinality()) == (19, 2)


def test_a_file_in_the_manual_folder_is_taken_and_never_mistaken_for_another(tmp_path):
    manual = tmp_path / "downloads" / "manual" / "chardata.mat"
    for seed in (1, 2):
        upright = write_chardata(manual, seed=seed)
        _, _, test = load_dataset("omniglot", 1, data_dir=tmp_path)
        np.testing.assert_array_equal(images_of(test), np.rint(255 * upright["testdata"]))
    other = write_chardata(tmp_path / "other.mat", seed=3)
    _, _, test = load_dataset("omniglot", 1, data_dir=tmp_path, omniglot_mat=tmp_path / "other.mat")
    np.testing.assert_array_equal(images_of(test), np.rint(255 * other["testdata"]))


def test_tfds_prepares_the_same_images_in_the_same_order_from_the_manual_folder(tmp_path):
    manual = tmp_path / "downloads" / "manual" / "chardata.mat"
    upright = write_chardata(manual)
    prepared = tfds.load("omniglot28", data_dir=tmp_path, split="train")
    images = np.stack([example["image"][..., 0] for example in prepared.as_numpy_iterator()])
    np.testing.assert_array_equal(images, np.rint(255 * upright["data"]))
    manual.unlink()
    _, validation, _ = load_dataset("omniglot", 1, data_dir=tmp_path)
    np.testing.assert_array_equal(images_of(validation), np.rint(255 * upright["data"][27:]))


def test_a_download_is_prepared_once(tmp_path, server, monkeypatch):
    upright = write_chardata(server)
    monkeypatch.setattr(omniglot, "PUBLISHED_SIZES", (30, 7))
    for _ in range(2):
        _, _, test = load_dataset("omniglot", 1, data_dir=tmp_path / "data")
        np.testing.assert_array_equal(images_of(test), np.rint(255 * upright["testdata"]))
        server.unlink(missing_ok=True)


def test_a_download_that_is_not_the_published_file_is_refused_and_nothing_prepared(tmp_path, server):
    write_chardata(server)
    with pytest.raises(UserError, match="with 30 [+] 7 images, is not the published"):
        load_dataset("omniglot", 1, data_dir=tmp_path / "data")
    assert not list((tmp_path / "data" / "omniglot28").rglob("*"))


def test_a_download_must_have_the_registered_checksum(tmp_path, server, monkeypatch):
    assert Omniglot28.url_infos is not None  # TFDS finds checksums.tsv beside the builder
    write_chardata(server)
    monkeypatch.setattr(omniglot, "PUBLISHED_SIZES", (30, 7))
    registered = checksums.UrlInfo(size=5, checksum="0" * 64, filename="chardata.mat")
    monkeypatch.setattr(Omniglot28, "url_infos", {omniglot.URL: registered})
    with pytest.raises(UserError, match="wrong checksum") as error:
        load_dataset("omniglot", 1, data_dir=tmp_path / "data")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "data" / "omniglot28").rglob("*"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("<html>not found</html>"),
        lambda path: path.write_bytes(path.read_bytes()[:5000]),
        lambda path: scipy.io.savemat(path, {"data": np.zeros((784, 3))}),
        lambda path: scipy.io.savemat(path, {"data": np.zeros((3, 784)), "testdata": np.zeros((3, 784))}),
        lambda path: scipy.io.savemat(path, {"data": np.full((784, 3), 255.0), "testdata": np.zeros((784, 3))}),
        lambda path: scipy.io.savemat(path, {"data": np.full((784, 3), np.nan), "testdata": np.zeros((784, 3))}),
    ],
    ids=["empty", "html", "cut", "no testdata", "transposed", "bytes", "nan"],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path, spoil):
    path = tmp_path / "downloads" / "manual" / "chardata.mat"
    write_chardata(path)
    spoil(path)
    for settings in ({"omniglot_mat": path}, {"data_dir": tmp_path}):
        with pytest.raises(UserError, match="chardata.mat is damaged or not OMNIGLOT's") as error:
            load_dataset("omniglot", 1, **settings)
        assert "\n" not in str(error.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match="there is no file .*missing.mat: fetch it from https://github.com/yburda"):
        load_dataset("omniglot", 1, omniglot_mat=tmp_path / "missing.mat")


def test_the_real_omniglot_is_upright(shared):
    file = shared / "data" / "omniglot_subset" / "chardata.mat"
    train, validation, test = load_dataset("omniglot", 10, omniglot_mat=file)
    assert (train.cardinality(), validation.cardinality(), test.cardinality()) == (326, 37, 121)
    columns = scipy.io.loadmat(file)["testdata"].T
    upright = columns.reshape(-1, 28, 28, order="C").swapaxes(1, 2)
    np.testing.assert_array_equal(images_of(test), np.rint(255 * upright))
