"""Features of both networks, and their files."""

import functools
import http.server
import threading

import keras
import numpy as np
import pytest
import requests
import scipy.linalg
import scipy.special
from PIL import Image

from dvpvae_tf.data.pipelines import read_dataset
from dvpvae_tf.errors import UserError
from dvpvae_tf.evaluation import feature_distances, features
from dvpvae_tf.evaluation.features import (
    classifier_accuracy,
    classifier_features,
    inception_features,
    load_classifier,
    load_inception,
    train_classifier,
)


@pytest.fixture(scope="module")
def inception():
    """InceptionV3 with weights at random."""
    keras.utils.set_random_seed(0)
    return keras.applications.InceptionV3(include_top=False, weights=None, pooling="avg")


@pytest.fixture(scope="module")
def weights(inception, tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "inception.weights.h5"
    inception.save_weights(path)
    return path


@pytest.fixture(scope="module")
def another():
    return keras.applications.InceptionV3(include_top=False, weights=None, pooling="avg")


@pytest.fixture
def made_once(another, monkeypatch):
    """Takes the same network whenever one is made, as that takes seconds, its weights other ones each time."""

    def make(**options):
        assert options == {"include_top": False, "weights": None, "pooling": "avg"}
        for weight in another.weights:
            weight.assign(np.full(weight.shape, 7.0))
        return another

    monkeypatch.setattr(keras.applications, "InceptionV3", make)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "head", refuse)


def assert_same_weights(one, other):
    for mine, others in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, others)


class TestInception:
    def test_features_are_those_of_its_own_preprocessing_and_a_bilinear_resize(self, inception, images):
        colours = images(num=5, channels=3)
        channels = [
            [Image.fromarray(image[..., k].astype("float32")).resize((299, 299), Image.BILINEAR) for k in range(3)]
            for image in colours
        ]
        resized = np.stack([np.stack([np.asarray(channel) for channel in image], axis=-1) for image in channels])
        expected = inception.predict(resized / 127.5 - 1, verbose=0)
        features = inception_features(inception, colours, batch_size=2, verbose=0)
        assert features.shape == (5, 2048) and features.dtype == np.float32
        np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())
        assert np.abs(expected[0] - expected[1]).max() > 0.01 * np.abs(expected).max()
        floats = inception_features(inception, (colours / 255).astype("float32"), verbose=0)
        np.testing.assert_allclose(floats, features, atol=1e-4 * np.abs(features).max())

    def test_a_grey_image_is_one_of_three_equal_channels(self, inception, images):
        grey = images(num=2)
        features = inception_features(inception, grey, verbose=0)
        coloured = inception_features(inception, np.repeat(grey, 3, axis=-1), verbose=0)
        np.testing.assert_allclose(features, coloured, atol=1e-5 * np.abs(features).max())

    def test_weights_are_read_from_a_file(self, inception, weights):
        assert_same_weights(load_inception(weights), inception)

    def test_weights_are_read_from_a_whole_model(self, inception, tmp_path, made_once):
        inception.save(tmp_path / "other.h5")
        assert_same_weights(load_inception(tmp_path / "other.h5"), inception)

    def test_a_file_in_the_cache_needs_no_network(self, inception, tmp_path, monkeypatch, made_once, no_network):
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        (tmp_path / "models").mkdir()
        inception.save(tmp_path / "models" / features.INCEPTION_FILE)
        assert_same_weights(load_inception(), inception)

    def test_weights_are_downloaded_into_the_cache(self, inception, tmp_path, monkeypatch, made_once):
        for folder in ("web", "cache"):
            (tmp_path / folder).mkdir()
        inception.save(tmp_path / "web" / "inception.h5")
        monkeypatch.setenv("KERAS_HOME", str(tmp_path / "cache"))
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "web")
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}"
            monkeypatch.setattr(features, "INCEPTION_URL", f"{address}/missing.h5")
            with pytest.raises(UserError, match="cannot fetch InceptionV3 .*404.*give it with --inception-weights"):
                load_inception()
            monkeypatch.setattr(features, "INCEPTION_URL", f"{address}/inception.h5")
            assert_same_weights(load_inception(), inception)
            server.shutdown()
        assert (tmp_path / "cache" / "models" / features.INCEPTION_FILE).is_file()

    def test_no_file_and_no_network_is_one_line(self, tmp_path, monkeypatch, no_network, capfd):
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        with pytest.raises(UserError, match="no network to fetch it: .*_notop.h5 .* --inception-weights FILE") as error:
            load_inception()
        assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
        assert "".join(capfd.readouterr()) == ""

    @pytest.mark.parametrize("spoil", ["text", "cut", "suffix", "another network"])
    def test_a_wrong_file_gives_a_one_line_error(self, weights, tmp_path, recwarn, made_once, spoil):
        path = tmp_path / "wrong.weights.h5"
        if spoil == "text":
            path.write_text("<html>not found</html>")
        elif spoil == "cut":
            path.write_bytes(weights.read_bytes()[:1_000_000])
        elif spoil == "suffix":
            path = tmp_path / "weights.pth"
            path.write_bytes(weights.read_bytes())
        else:
            keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save_weights(path)
        with pytest.raises(UserError, match=f"{path.name} is damaged or not .*_notop.h5: fetch that") as error:
            load_inception(path)
        assert "\n" not in str(error.value)
        assert not [warning for warning in recwarn if "Skipping" in str(warning.message)]

    def test_a_missing_file_is_told(self, tmp_path):
        with pytest.raises(
            UserError, match="there is no file .*missing.h5: give --inception-weights the file https://"
        ):
            load_inception(tmp_path / "missing.h5")


@pytest.fixture(scope="module")
def digits():
    images, labels, *_ = read_dataset("mnist5k", labels=True)
    return [part[:1000] for part in images], [part[:1000] for part in labels]


@pytest.fixture(scope="module")
def classifier(digits):
    return train_classifier(digits[0][0], digits[1][0], steps=100, verbose=0)


class TestClassifier:
    def test_learns_the_labels_and_its_accuracy_is_told(self, classifier, digits):
        images, labels = digits[0][2], digits[1][2]
        accuracy = classifier_accuracy(classifier, images, labels, batch_size=300)
        assert accuracy > 0.85
        predicted = classifier.predict(images / np.float32(255), verbose=0).argmax(axis=1)
        assert accuracy == np.mean(predicted == labels)

    def test_features_are_what_its_last_layer_sees(self, classifier, digits):
        images = digits[0][2]
        features = classifier_features(classifier, images, batch_size=300, verbose=0)
        assert features.shape == (500, 64) and features.dtype == np.float32
        logits = np.maximum(features, 0) @ classifier.layers[-1].kernel + classifier.layers[-1].bias
        expected = classifier.predict(images / np.float32(255), verbose=0)
        np.testing.assert_allclose(scipy.special.softmax(logits, axis=1), expected, atol=1e-4)
        floats = classifier_features(classifier, (images / 255).astype("float32"), verbose=0)
        np.testing.assert_allclose(floats, features, atol=1e-4)

    def test_keras_global_policy_does_not_matter(self, digits):
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            classifier = train_classifier(digits[0][0][:50], digits[1][0][:50], steps=1, verbose=0)
        finally:
            keras.config.set_dtype_policy(policy)
        assert {layer.compute_dtype for layer in classifier.layers} == {"float32"}

    def test_features_have_a_scale(self, classifier, digits):
        features = classifier_features(classifier, digits[0][0], verbose=0)
        assert np.abs(features.mean(axis=0)).mean() < 0.3
        assert 0.5 < features.std(axis=0).mean() < 1.5

    def test_the_seed_fixes_it_whatever_was_drawn_before(self, digits):
        def features(seed):
            classifier = train_classifier(digits[0][0], digits[1][0], seed=seed, steps=10, verbose=0)
            return classifier_features(classifier, digits[0][1], verbose=0)

        keras.utils.set_random_seed(0)
        first = features(5)
        keras.utils.set_random_seed(1)
        np.testing.assert_allclose(features(5), first, atol=1e-3)
        assert np.abs(features(6) - first).max() > 0.1

    def test_both_distances_order_real_noisy_and_blank_images(self, classifier, digits):
        _, validation, test = digits[0]
        noise = np.random.default_rng(0).normal(scale=0.3, size=test.shape)
        sets = [validation, np.clip(test / 255 + noise, 0, 1), np.zeros_like(test)]
        real = classifier_features(classifier, test, verbose=0)
        distances = [feature_distances(real, classifier_features(classifier, each, verbose=0)) for each in sets]
        for mine, worse in zip(distances, distances[1:], strict=False):
            assert 2 * mine.frechet < worse.frechet
            assert mine.kernel + 4 * mine.kernel_standard_error < worse.kernel

    def test_a_saved_one_gives_the_same_features(self, classifier, digits, tmp_path):
        classifier.save(tmp_path / "classifier.keras")
        loaded = load_classifier(tmp_path / "classifier.keras", (28, 28, 1))
        one, other = (classifier_features(each, digits[0][1], verbose=0) for each in (classifier, loaded))
        np.testing.assert_array_equal(one, other)

    def test_a_file_that_does_not_fit_gives_a_one_line_error(self, classifier, tmp_path):
        classifier.save(tmp_path / "good.keras")
        (tmp_path / "cut.keras").write_bytes((tmp_path / "good.keras").read_bytes()[:5000])
        (tmp_path / "text.keras").write_text("not a model")
        keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten()]).save(tmp_path / "other.keras")
        for name, shape, message in [
            ("missing", (28, 28, 1), "there is no file .*missing.keras"),
            ("cut", (28, 28, 1), "cut.keras is damaged or no classifier"),
            ("text", (28, 28, 1), "text.keras is damaged or no classifier"),
            ("other", (28, 28, 1), "other.keras is damaged or no classifier"),
            ("good", (32, 32, 3), r"is for images \[28, 28, 1\], not \[32, 32, 3\]"),
        ]:
            with pytest.raises(UserError, match=message) as error:
                load_classifier(tmp_path / f"{name}.keras", shape)
            assert "\n" not in str(error.value)


def test_images_and_labels_must_be_what_they_are_said_to_be(classifier, inception, digits):
    images, labels = digits[0][1], digits[1][1]
    for wrong, message in [
        (images[..., 0], r"must be \[N, H, W, 1 or 3\]"),
        (np.repeat(images, 2, axis=-1), r"must be \[N, H, W, 1 or 3\]"),
        (images.astype("float32"), r"must be uint8, or floats in \[0, 1\]"),
        (np.full((2, 28, 28, 1), np.nan), "got NaN or infinity: are they from a model that has diverged"),
    ]:
        for use in (classifier_features, inception_features):
            with pytest.raises(ValueError, match=message):
                use(classifier if use is classifier_features else inception, wrong)
        with pytest.raises(ValueError, match=message):
            train_classifier(wrong, labels[: len(wrong)])
    for wrong in (labels[:-1], labels - 1, labels[:, None]):
        with pytest.raises(ValueError, match=r"must be \[500\] and at least 0"):
            train_classifier(images, wrong)
