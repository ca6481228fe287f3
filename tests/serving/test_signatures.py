"""The signatures of an exported model, in the loader of TensorFlow Serving and in Python."""

import io
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from dvpvae_tf import evaluation
from dvpvae_tf.models import refit
from dvpvae_tf.pictures import to_uint8
from dvpvae_tf.priors import FullMixturePrior, LabelledMixturePrior
from dvpvae_tf.serving import signatures
from dvpvae_tf.serving.model_card import model_card


@pytest.fixture(scope="module")
def model(exported):
    return exported.model


@pytest.fixture(scope="module")
def served(exported):
    return exported.signatures


def sample(served, seeds, temperatures, signature="sample"):
    outputs = served[signature](seed=tf.constant(seeds, tf.int64), temperature=tf.constant(temperatures, tf.float32))
    return {name: value.numpy() for name, value in outputs.items()}


def test_a_row_is_the_models_own_image_whatever_else_is_in_the_batch(served, model):
    seeds, temperatures = [7, 0, 2**31 - 1, 7], [0.5, 1.0, 0.0, 1.0]
    outputs = sample(served, seeds, temperatures)
    assert list(outputs["error"]) == [b""] * 4
    for row, (seed, temperature) in enumerate(zip(seeds, temperatures, strict=True)):
        alone = sample(served, [seed], [temperature])
        own = model.sample_with_pseudoinputs(1, temperature, seed, prior_temperature=0.7, steps=2)
        for name in ("images", "pseudoinputs"):
            np.testing.assert_allclose(outputs[name][row], alone[name][0], atol=1e-4)
            np.testing.assert_allclose(outputs[name][row], getattr(own, name)[0], atol=1e-4)
    assert np.abs(outputs["images"][0] - outputs["images"][3]).max() > 1e-3  # the temperature counts
    np.testing.assert_allclose(outputs["pseudoinputs"][0], outputs["pseudoinputs"][3], atol=1e-5)  # not for u


def test_every_seed_of_64_bits_has_an_image_of_its_own(served):
    seeds = [0, -1, 2**31, 2**32, 2**32 - 1, 2**63 - 1, -(2**63), 1]
    images = sample(served, seeds, [1.0] * len(seeds))["pseudoinputs"]
    differences = np.abs(images[:, None] - images[None]).max(axis=(2, 3, 4))
    assert differences[~np.eye(len(seeds), dtype=bool)].min() > 1e-3


def test_the_mean_of_a_bernoulli_likelihood_is_what_sample_gives(served):
    expected = sample(served, [3], [1.0])["images"]
    np.testing.assert_array_equal(sample(served, [3], [1.0], "sample_mean")["images"], expected)


def test_the_default_signature_samples(served):
    np.testing.assert_array_equal(
        sample(served, [3], [1.0])["images"], sample(served, [3], [1.0], "serving_default")["images"]
    )


def test_a_bad_temperature_is_told_and_harms_no_other_row(served):
    temperatures = [1.0, -0.1, np.nan, np.inf, 0.5]
    outputs = sample(served, [1, 2, 3, 4, 5], temperatures)
    good = sample(served, [1, 5], [1.0, 0.5])
    for name in ("images", "pseudoinputs"):
        assert np.isnan(outputs[name][1:4]).all()
        np.testing.assert_allclose(outputs[name][[0, 4]], good[name], atol=1e-5)
    why = b"temperature must be a finite number of at least 0"
    assert list(outputs["error"]) == [b"", why, why, why, b""]
    overflow = sample(served, [1, 2], [3e38, 1.0])
    assert (
        overflow["error"][0] == b"temperature is so high that the image is not finite" and overflow["error"][1] == b""
    )
    assert np.isnan(overflow["images"][0]).all() and np.isfinite(overflow["images"][1]).all()


def test_png_files_hold_the_same_images_and_blanks(served):
    arrays = sample(served, [1, 2], [1.0, -1.0])
    files = sample(served, [1, 2], [1.0, -1.0], "sample_png")
    assert list(files["error"]) == list(arrays["error"])
    for name, array in (("image_bytes", "images"), ("pseudoinput_bytes", "pseudoinputs")):
        first, blank = (tf.io.decode_png(file).numpy() for file in files[name])
        np.testing.assert_allclose(first, 255 * arrays[array][0], atol=0.5 + 1e-3)
        assert blank.shape == (8, 8, 1) and (blank == 255).all()


def test_reconstructions_are_the_models_own_and_bad_pixels_are_told(served, model, images):
    pixels = images(5).astype("float32") / 255
    pixels[1, 0, 0, 0], pixels[2, 3, 3, 0], pixels[3, 7, 0, 0] = np.nan, 1.01, -np.inf
    outputs = served["reconstruct"](images=tf.constant(pixels))
    assert [error == b"pixels must be in [0, 1]" for error in outputs["error"].numpy()] == [
        False,
        True,
        True,
        True,
        False,
    ]
    reconstructions = outputs["reconstructions"].numpy()
    np.testing.assert_allclose(reconstructions[[0, 4]], model.reconstruct(images(5)[[0, 4]]), atol=1e-4)
    assert np.isnan(reconstructions[1:4]).all()


def png(image, **options):
    """A PNG file of an array or a Pillow image, written by Pillow."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, "PNG", **options)
    return file.getvalue()


def reconstruct_png(served, files):
    outputs = served["reconstruct_png"](image_bytes=tf.constant(files, tf.string))
    decoded = [tf.io.decode_png(file).numpy() for file in outputs["reconstruction_bytes"].numpy()]
    return decoded, [error.decode() for error in outputs["error"].numpy()]


def test_png_files_are_reconstructed_and_others_are_told_apart(served, model, images):
    pixels = images(2)
    first, second = (png(each[..., 0]) for each in pixels)
    larger = png(np.zeros((8, 9), "uint8"))
    files = [first, b"no picture", larger, b"", second[:-1], second, second + b"trailing bytes", second[:24]]
    decoded, errors = reconstruct_png(served, files)
    none, cut = "image_bytes is not a PNG file", "image_bytes is a PNG file that is cut short"
    size = "image_bytes is a PNG file of 9 x 8 pixels: the model takes 8 x 8"
    assert errors == ["", none, size, none, cut, "", "", cut]
    expected = 255 * model.reconstruct(pixels)
    for row, image in ((0, 0), (5, 1), (6, 1)):
        np.testing.assert_allclose(decoded[row], expected[image], atol=0.5 + 1e-2)
    assert all((decoded[row] == 255).all() for row in (1, 2, 3, 4, 7))


def test_png_files_of_all_depths_and_colours_are_read(served, model, images):
    grey = images(1)[0, ..., 0]
    bits, alpha = (grey > 99) * np.uint8(255), (grey > 99) * np.uint8(255)
    palette, colour = Image.fromarray(grey).quantize(16), np.stack([grey] * 3, axis=-1)
    transparent = Image.fromarray(np.concatenate([colour, alpha[..., np.newaxis]], axis=-1))
    on_white = np.where(alpha > 0, grey, 255)
    files = {
        "1 bit": (png(Image.fromarray(bits).convert("1")), bits),
        "a palette of 4 bits": (png(palette, bits=4), np.asarray(palette.convert("L"))),
        "16 bits": (png(grey.astype("uint16") * 257), grey),
        "RGB": (png(colour), grey),
        "transparent pixels": (png(transparent), on_white),
        "grey with transparent pixels": (png(transparent.convert("LA")), on_white),
        "a transparent level": (png(grey, transparency=int(grey[4, 4])), np.where(grey == grey[4, 4], 255, grey)),
    }
    assert [file[24] for file, _ in files.values()] == [1, 4, 16, 8, 8, 8, 8], "the depths that they claim"
    decoded, errors = reconstruct_png(served, [file for file, _ in files.values()])
    assert errors == [""] * len(files)
    expected = 255 * model.reconstruct(np.stack([pixels[..., None] for _, pixels in files.values()]).astype("uint8"))
    for name, got, wanted in zip(files, decoded, expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=0.5 + 1e-2, err_msg=name)


def test_no_rows_have_empty_outputs(served):
    for name, signature in served.items():
        specs = signature.structured_input_signature[1]
        outputs = signature(**{key: tf.zeros([0, *spec.shape[1:]], spec.dtype) for key, spec in specs.items()})
        for key, spec in signature.structured_outputs.items():
            assert outputs[key].shape == (0, *spec.shape[1:]), (name, key)


def test_codes_are_the_posterior_means(served, model, images):
    outputs = served["encode"](images=tf.constant(images(3).astype("float32") / 255))
    expected = model.infer(images(3), sample=False)
    np.testing.assert_allclose(outputs["pseudoinput"], model.pseudoinput(images(3).astype("float32") / 255), atol=1e-5)
    for number, mean in ((2, expected.posterior_means[0]), (1, expected.posterior_means[1])):
        np.testing.assert_allclose(outputs[f"z_{number}"], mean, atol=1e-5)
    assert set(outputs) == {"pseudoinput", "z_1", "z_2", "error"}


def test_scores_are_draws_of_the_negative_elbo_of_t_steps(served, model, images):
    pixels = tf.constant(images(2).astype("float32") / 255)
    draws = 600
    outputs = served["score"](images=tf.repeat(pixels, draws, axis=0), seed=tf.range(2 * draws, dtype=tf.int64))
    terms = {name: value.numpy().reshape(2, draws) for name, value in outputs.items() if name != "error"}
    np.testing.assert_allclose(
        terms["negative_elbo"], terms["reconstruction"] + terms["kl_z"] + terms["kl_u"], rtol=1e-4, atol=1e-3
    )
    expected = evaluation.elbo(model, images(2), samples=draws, steps=2, verbose=0)
    errors = terms["negative_elbo"].std(axis=1) * (2 / draws) ** 0.5
    assert (np.abs(terms["negative_elbo"].mean(axis=1) - expected.negative_elbo) < 4 * errors).all()
    again = served["score"](images=pixels, seed=tf.constant([0, draws], tf.int64))
    np.testing.assert_allclose(again["negative_elbo"], terms["negative_elbo"][:, 0], rtol=1e-4)


def test_a_bad_image_has_no_score(served, images):
    pixels = images(2).astype("float32") / 255
    pixels[0, 0, 0, 0] = np.nan
    outputs = served["score"](images=tf.constant(pixels), seed=tf.constant([1, 2], tf.int64))
    assert np.isnan(outputs["negative_elbo"][0]) and np.isfinite(outputs["negative_elbo"][1])
    assert outputs["error"].numpy()[0] == b"pixels must be in [0, 1]"


def test_the_loader_of_tensorflow_serving_runs_it_without_this_library(exported, served, tmp_path):
    np.save(tmp_path / "seed.npy", np.array([3, 4]))
    np.save(tmp_path / "temperature.npy", np.array([0.8, -1.0], "float32"))
    code = (
        "import sys; sys.modules['dvpvae_tf'] = None; from tensorflow.python.tools.saved_model_cli import main; main()"
    )
    command = [
        "run",
        "--dir",
        exported.version,
        "--tag_set",
        "serve",
        "--signature_def",
        "serving_default",
        "--outdir",
        tmp_path,
    ]
    inputs = ["--inputs", "seed=seed.npy;temperature=temperature.npy"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, command), *inputs], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    expected = sample(served, [3, 4], [0.8, -1.0])
    np.testing.assert_allclose(np.load(tmp_path / "images.npy"), expected["images"], atol=1e-4)
    assert list(np.load(tmp_path / "error.npy", allow_pickle=True)) == list(expected["error"])


@pytest.mark.slow
def test_a_model_of_colour_images_without_pseudoinputs(tiny):
    changes = {"image_channels": 3, "likelihood": "discretized_logistic_mixture", "pseudoinput": "none"}
    model = tiny(**changes)
    made = signatures.make_signatures(model)
    # As in a loaded SavedModel: inputs by name.
    served = {name: made[name].get_concrete_function() for name in ("sample", "sample_png", "sample_mean", "encode")}
    outputs = sample(served, [5, 6], [0.5, 1.0])
    assert set(outputs) == {"images", "error"} and set(sample(served, [5], [1.0], "sample_png")) == {
        "image_bytes",
        "error",
    }
    mean = model.sample(2, 0.5, 5, pixels="mean")[:1]
    np.testing.assert_allclose(sample(served, [5], [0.5], "sample_mean")["images"], mean, atol=1e-4)
    assert np.abs(outputs["images"][:1] - mean).max() > 0.01, "one is drawn, the other is not"
    own = [model.sample(1, temperature, seed)[0] for seed, temperature in ((5, 0.5), (6, 1.0))]
    np.testing.assert_allclose(outputs["images"], own, atol=1e-4)
    assert set(served["encode"].structured_outputs) == {"z_1", "z_2", "error"}


def test_decode_gives_the_models_own_images_of_a_pseudoinput(served, model):
    u = model.encode(np.random.default_rng(0).uniform(size=(3, *model.image_shape)).astype("float32")).u
    seeds, temperatures = tf.constant([5, 5, 6], tf.int64), tf.constant([0.5, -1.0, 1.0])
    outputs = served["decode"](pseudoinput=tf.constant(u), seed=seeds, temperature=temperatures)
    for row, temperature in ((0, 0.5), (2, 1.0)):
        own = model.sample(1, temperature, int(seeds[row]), pixels="mean", pseudoinput=u[row])
        np.testing.assert_allclose(outputs["images"][row], own[0], atol=1e-4)
    assert list(outputs["error"].numpy()) == [b"", b"temperature must be a finite number of at least 0", b""]
    bad = served["decode"](pseudoinput=tf.constant(u * np.nan), seed=seeds, temperature=tf.abs(temperatures))
    assert set(bad["error"].numpy()) == {b"pseudoinput must be finite"}


def test_a_model_with_labels_serves_a_class(tiny, images):
    mixtures = []
    for mean in (0.1, 0.9):
        mixtures.append(FullMixturePrior(1))
        mixtures[-1].build((None, 3, 3, 1))
        mixtures[-1].set_gaussians([1.0], [[mean] * 9], [0.01 * np.eye(9)])
    model = tiny()
    model.adapt(images(20))
    model = refit.with_prior(model, LabelledMixturePrior.join(mixtures, [0.5, 0.5], ["cat", "dog"]))
    seeds, temperatures = tf.constant([1, 1, 2], tf.int64), tf.ones(3)
    made = signatures.make_signatures(model)
    outputs = made["sample_label"](seeds, temperatures, tf.constant([0, 1, 2]))
    assert list(outputs["error"].numpy()) == [b"", b"", b"label must be from 0 to 1"]
    card = model_card("blobs", 1, model, {}, None, None, None, 1.0, None)
    means = made["sample_mean_label_png"](seeds, temperatures, tf.constant([0, 1, 2]))["image_bytes"]
    assert "\n* Labels, for `sample_label`: 0 cat, 1 dog.\n" in card
    for row, label in enumerate((0, "dog")):
        own = model.sample_with_pseudoinputs(1, seed=1, label=label)
        np.testing.assert_allclose(outputs["pseudoinputs"][row], own.pseudoinputs[0], atol=1e-4)
        np.testing.assert_allclose(outputs["images"][row], own.images[0], atol=1e-4)
        mean = to_uint8(model.sample(1, seed=1, label=label, pixels="mean")[0])
        assert np.abs(tf.io.decode_png(means[row]).numpy().astype(int) - mean).max() <= 1
