"""Pseudoinputs: Algorithms 1 and 2 with SciPy, the other kinds by hand, the noise around them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import fft, stats

from dvpvae_tf.layers.pseudoinputs import (
    ClipWeights,
    DCTPseudoinput,
    DownsamplePseudoinput,
    LearnablePseudoinput,
    resize_bilinear,
)

KINDS = [DCTPseudoinput, DownsamplePseudoinput, LearnablePseudoinput]


def dctn(images):
    return fft.dctn(np.asarray(images, "float64"), axes=(1, 2), norm="ortho")


def adapted(images, size=3, **kwargs):
    pseudoinput = DCTPseudoinput(size, **kwargs)
    pseudoinput.build((None, *images.shape[1:]))
    pseudoinput.adapt(images)
    return pseudoinput


def interpolate(image, side):
    """Bilinear with half-pixel centres, one pixel at a time."""
    old = len(image)

    def weights(position):
        centre = min(max((position + 0.5) * old / side - 0.5, 0), old - 1)
        low = min(int(centre), old - 1)
        return [(low, 1 - (centre - low)), (min(low + 1, old - 1), centre - low)]

    return np.array(
        [
            [sum(a * b * image[i, j] for i, a in weights(row) for j, b in weights(column)) for column in range(side)]
            for row in range(side)
        ]
    )


# The DCT (Algorithms 1 and 2)


def test_s_is_the_largest_absolute_dct_over_a_data_set(images):
    pixels = images(37, channels=3)
    expected = np.abs(dctn(pixels / 255)).max(axis=0)[:3, :3]
    batches = tf.data.Dataset.from_tensor_slices(pixels).batch(8)  # the last one smaller
    floats = batches.map(lambda batch: tf.cast(batch, tf.float32) / 255)
    with_labels = batches.map(lambda batch: (batch, tf.zeros(len(batch))))
    for data in (pixels, pixels / np.float32(255), batches, floats, with_labels):
        pseudoinput = DCTPseudoinput(3)
        pseudoinput.build((None, 8, 8, 3))
        pseudoinput.adapt(data)
        np.testing.assert_allclose(pseudoinput.scale, expected, rtol=1e-5, atol=1e-6)


def test_adapting_again_forgets_the_first_data(images):
    pseudoinput = adapted(images(10))
    pseudoinput.adapt(images(10) // 2)
    np.testing.assert_allclose(pseudoinput.scale, np.abs(dctn(images(10) // 2 / 255)).max(0)[:3, :3], rtol=1e-5)


def test_f_is_algorithm_1(images):
    train, test = images(20, channels=3), images(9, channels=3, seed=1) / np.float32(255)
    scale = np.abs(dctn(train / 255)).max(axis=0)[:3, :3]
    u = adapted(train)(test)
    assert u.dtype == "float32" and u.shape == (9, 3, 3, 3)
    np.testing.assert_allclose(u, np.clip(dctn(test)[:, :3, :3] / scale, -1, 1), atol=1e-5)
    brighter = adapted((train * 0.2).astype("uint8"))(test)
    assert np.abs(brighter).max() == 1.0  # clipped


def test_every_frequency_of_the_training_images_fills_its_range(images):
    train = images(20)
    u = np.abs(adapted(train)(train / np.float32(255)))
    np.testing.assert_allclose(u.max(axis=0), 1.0, rtol=1e-5)


def test_decode_is_algorithm_2(images):
    pseudoinput = adapted(images(20, channels=3))
    u = np.random.default_rng(0).uniform(-1.2, 1.2, (5, 3, 3, 3)).astype("float32")
    padded = np.zeros((5, 8, 8, 3))
    padded[:, :3, :3] = u * pseudoinput.scale.numpy()
    expected = np.clip(fft.idctn(padded, axes=(1, 2), norm="ortho"), 0, 1)
    decoded = pseudoinput.decode(u)
    np.testing.assert_allclose(decoded, expected, atol=1e-5)
    assert np.min(decoded) == 0 and np.max(decoded) == 1


def test_all_frequencies_give_the_image_back(images):
    pixels = images(6)
    pseudoinput = adapted(pixels, size=8)
    u = pseudoinput(pixels / np.float32(255))
    np.testing.assert_allclose(pseudoinput.decode(u), pixels / 255, atol=1e-5)


@pytest.mark.parametrize("brightness", [np.zeros(5), np.linspace(0, 1, 5)])
def test_a_frequency_that_is_always_zero_gives_zero(brightness):
    flat = np.ones((5, 8, 8, 1), "float32") * brightness[:, None, None, None].astype("float32")
    pseudoinput = adapted(flat)
    u = pseudoinput(flat).numpy()
    np.testing.assert_allclose(u[:, 0, 0, 0], brightness, atol=1e-6)
    u[:, 0, 0] = 0
    assert not u.any()
    assert not pseudoinput(np.random.default_rng(0).random((4, 8, 8, 1))).numpy()[:, 1:, 1:].any()
    assert np.isfinite(pseudoinput.decode(u)).all()
    assert pseudoinput.adapted


def test_black_and_white_as_bytes_0_and_1_is_refused():
    binary = np.random.default_rng(0).integers(0, 2, (6, 8, 8, 1), "uint8")
    layer = DCTPseudoinput(3)
    layer.build((None, 8, 8, 1))
    with pytest.raises(ValueError, match="no value above 1 of 255: multiply them by 255, or give float32"):
        layer.adapt(binary)
    layer.adapt(binary.astype("float32"))
    layer.adapt(255 * binary)


def test_not_adapted_until_adapt_is_called(images):
    pseudoinput = DCTPseudoinput(3)
    pseudoinput.build((None, 8, 8, 1))
    assert not pseudoinput.adapted
    pseudoinput.adapt(images())
    assert pseudoinput.adapted
    assert [weight.name for weight in pseudoinput.trainable_weights] == ["log_var"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros((0, 8, 8, 1), "uint8"), "adapt\\(\\) was given no images"),
        (np.zeros((3, 9, 9, 1), "uint8"), "The model takes images \\[N, 8, 8, 1\\], got \\(3, 9, 9, 1\\)"),
        (np.zeros((3, 8, 8), "uint8"), "The model takes images \\[N, 8, 8, 1\\], got \\(3, 8, 8\\)"),
    ],
)
def test_images_that_do_not_fit_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        adapted_to = DCTPseudoinput(3)
        adapted_to.build((None, 8, 8, 1))
        adapted_to.adapt(data)


# The other kinds


@pytest.mark.parametrize("size", [3, 4, 8])
def test_downsample_is_bilinear_with_half_pixel_centres(images, size):
    pixels = images(2, channels=3) / np.float32(255)
    expected = [interpolate(2 * image.astype("float64") - 1, size) for image in pixels]
    np.testing.assert_allclose(DownsamplePseudoinput(size)(pixels), expected, atol=1e-5)


def test_downsampling_by_two_averages_pairs():
    image = np.arange(16, dtype="float32").reshape(1, 4, 4, 1) / 16
    expected = 2 * np.array([[2.5, 4.5], [10.5, 12.5]]) / 16 - 1
    np.testing.assert_allclose(DownsamplePseudoinput(2)(image)[0, :, :, 0], expected, atol=1e-6)


@pytest.mark.parametrize("kind", [DownsamplePseudoinput, LearnablePseudoinput])
def test_the_others_are_decoded_bilinearly_and_not_clipped(kind):
    pseudoinput = kind(3)
    pseudoinput.build((None, 8, 8, 2))
    u = np.random.default_rng(0).normal(0, 3, (2, 3, 3, 2)).astype("float32")
    expected = [(interpolate(each.astype("float64"), 8) + 1) / 2 for each in u]
    np.testing.assert_allclose(pseudoinput.decode(u), expected, atol=1e-5)


def test_learnable_is_one_dense_layer_on_the_centred_image(images):
    pseudoinput, pixels = LearnablePseudoinput(3), images(5, channels=3) / np.float32(255)
    pseudoinput(pixels)
    pseudoinput.linear.kernel.assign(100 * pseudoinput.linear.kernel)
    pseudoinput.linear.bias.assign(np.arange(27.0))
    kernel = pseudoinput.linear.kernel.numpy().astype("float64")
    assert kernel.shape == (8 * 8 * 3, 3 * 3 * 3)
    expected = (2 * pixels.astype("float64") - 1).reshape(5, -1) @ kernel + np.arange(27)
    u = pseudoinput(pixels)
    np.testing.assert_allclose(u, expected.reshape(5, 3, 3, 3), rtol=1e-4, atol=1e-3)
    assert np.abs(u).max() > 1
    assert not LearnablePseudoinput.bounded and DCTPseudoinput.bounded and DownsamplePseudoinput.bounded


def test_resizing_keeps_the_type_and_leaves_images_of_the_right_size_alone():
    halves = tf.cast(tf.random.stateless_uniform((1, 4, 4, 1), (0, 0)), "bfloat16")
    assert resize_bilinear(halves, 8).dtype == "bfloat16"
    np.testing.assert_array_equal(resize_bilinear(halves, 4), halves)


# r(u|x) of every kind


@pytest.mark.parametrize("per_element", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_noise_and_entropy(kind, per_element):
    pseudoinput = kind(3, sigma_per_element=per_element, initial_log_var=-1.5)
    pseudoinput.build((None, 8, 8, 2))
    assert pseudoinput.log_var.shape == ((3, 3, 2) if per_element else ())
    assert (pseudoinput.log_var.numpy() == -1.5).all()
    pseudoinput.log_var.assign(np.random.default_rng(0).normal(-3, 1, pseudoinput.log_var.shape))
    deviation = np.broadcast_to(np.exp(0.5 * pseudoinput.log_var.numpy()), (3, 3, 2))
    mean, noise = np.random.default_rng(1).normal(size=(2, 4, 3, 3, 2)).astype("float32")
    np.testing.assert_allclose(pseudoinput.sample(mean, noise), mean + deviation * noise, rtol=1e-5, atol=1e-6)
    expected = tfp.distributions.Independent(tfp.distributions.Normal(mean[0], deviation), 3).entropy()
    np.testing.assert_allclose(pseudoinput.entropy(), expected, rtol=1e-5)
    of_u = tfp.distributions.Independent(tfp.distributions.Normal(mean, deviation), 3).log_prob(noise)
    np.testing.assert_allclose(pseudoinput.log_prob(noise, mean), of_u, rtol=1e-5)
    assert pseudoinput.dimensions == 18


@pytest.mark.parametrize("per_element", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_draw_and_entropy_reach_the_log_variance(kind, per_element, images):
    pseudoinput = kind(3, sigma_per_element=per_element)
    pixels = images(4) / np.float32(255)
    noise = tf.random.stateless_normal((4, 3, 3, 1), (0, 0))
    pseudoinput(pixels)
    with tf.GradientTape(persistent=True) as tape:
        energy = tf.reduce_sum(pseudoinput.sample(pseudoinput(pixels), noise) ** 2)
        entropy = pseudoinput.entropy()
    for gradient in tape.gradient(energy, pseudoinput.trainable_variables):
        assert np.abs(gradient).min() > 0
    expected = 0.5 if per_element else 4.5
    np.testing.assert_allclose(tape.gradient(entropy, pseudoinput.log_var.value), expected, rtol=1e-6)


def test_draws_follow_the_normal_distribution(images):
    pseudoinput = adapted(images(), initial_log_var=-2.0)
    mean = tf.zeros((3000, 3, 3, 1))
    u = pseudoinput.sample(mean, tf.random.stateless_normal(mean.shape, (3, 4)))
    assert stats.kstest(np.ravel(u), stats.norm(0, np.exp(-1.0)).cdf).pvalue > 0.001


def test_the_range_of_the_log_variance_is_a_constraint():
    pseudoinput = DownsamplePseudoinput(3, log_var_range=(-7.0, -5.0))
    pseudoinput.build((None, 8, 8, 1))
    optimizer = keras.optimizers.SGD(1.0)
    for slope, limit in ((-100.0, -5.0), (100.0, -7.0)):
        optimizer.apply([tf.fill((3, 3, 1), slope)], [pseudoinput.log_var])
        np.testing.assert_array_equal(pseudoinput.log_var, np.full((3, 3, 1), limit))
    clip = ClipWeights(-7.0, -5.0)
    assert clip.get_config() == ClipWeights.from_config(clip.get_config()).get_config()


@pytest.mark.parametrize("kind", KINDS)
def test_pseudoinputs_are_float32_whatever_the_policy(kind, images):
    pixels = images(4) / np.float32(255)
    exact, asked_for_less = kind(3), kind(3, dtype="mixed_bfloat16")
    exact(pixels), asked_for_less(pixels)
    asked_for_less.set_weights(exact.get_weights())
    np.testing.assert_array_equal(asked_for_less(pixels), exact(pixels))
    assert asked_for_less.compute_dtype == "float32"


def test_a_pseudoinput_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="size 9 does not fit images of 8 pixels a side"):
        DownsamplePseudoinput(9).build((None, 8, 8, 1))


def test_a_small_image_gives_the_f_of_the_large_one_that_it_is_the_mean_of():
    """Where the large image has no frequency above those of the small one, to rounding."""
    frequencies = np.zeros((5, 12, 12))
    frequencies[:, :3, :3] = np.random.default_rng(0).normal(size=(5, 3, 3))
    large = fft.idctn(frequencies, axes=(1, 2), norm="ortho")
    large = ((large - large.min()) / np.ptp(large)).astype("float32")[..., np.newaxis]
    pseudoinput = DCTPseudoinput(3)
    pseudoinput.build((None, 12, 12, 1))
    pseudoinput.adapt(large)
    for side in (3, 4, 6, 12):
        factor = 12 // side
        small = large.reshape(5, side, factor, side, factor, 1).mean(axis=(2, 4))
        np.testing.assert_allclose(pseudoinput.from_small_images(small), pseudoinput(large), atol=1e-5)
    with pytest.raises(ValueError, match=r"with s from 3 to 12, got \(5, 2, 2, 1\)"):
        pseudoinput.from_small_images(large[:, :2, :2])
