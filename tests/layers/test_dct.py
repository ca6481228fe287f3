"""The DCT against SciPy's."""

import keras
import numpy as np
import pytest
from scipy import fft

from dvpvae_tf.layers import DCT, InverseDCT
from dvpvae_tf.layers.dct import dct_matrix


@pytest.fixture
def colour_images():
    return np.random.default_rng(0).random((4, 12, 12, 3)).astype("float32")


def test_the_matrix_is_orthonormal_and_as_in_section_3_2():
    side = 9
    matrix = dct_matrix(side)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(side), atol=1e-6)
    np.testing.assert_allclose(matrix[0], np.sqrt(1 / side), rtol=1e-6)
    np.testing.assert_allclose(matrix[2, 5], np.sqrt(2 / side) * np.cos(np.pi / side * 5.5 * 2), rtol=1e-6)


def test_agrees_with_scipy_channel_by_channel(colour_images):
    expected = fft.dctn(colour_images.astype("float64"), axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(DCT()(colour_images), expected, atol=1e-5)


@pytest.mark.parametrize("size", [1, 5, 12])
def test_keeps_the_lowest_frequencies(colour_images, size):
    expected = fft.dctn(colour_images.astype("float64"), axes=(1, 2), norm="ortho")[:, :size, :size]
    np.testing.assert_allclose(DCT(size)(colour_images), expected, atol=1e-5)


def test_rows_are_vertical_frequencies():
    stripes = np.tile(np.cos(np.pi / 8 * (np.arange(8) + 0.5) * 3)[:, None], (1, 8))[None, :, :, None]
    frequencies = np.abs(DCT()(stripes.astype("float32"))[0, :, :, 0])
    assert np.unravel_index(frequencies.argmax(), (8, 8)) == (3, 0)


def test_round_trip_and_parseval(colour_images):
    frequencies = DCT()(colour_images)
    np.testing.assert_allclose(InverseDCT(12)(frequencies), colour_images, atol=1e-5)
    energy = np.sum(np.square(colour_images), axis=(1, 2, 3))
    np.testing.assert_allclose(np.sum(np.square(frequencies), axis=(1, 2, 3)), energy, rtol=1e-5)


def test_the_inverse_takes_missing_frequencies_as_zero():
    frequencies = np.random.default_rng(1).normal(size=(2, 4, 4, 3)).astype("float32")
    padded = np.zeros((2, 12, 12, 3))
    padded[:, :4, :4] = frequencies
    expected = fft.idctn(padded, axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(InverseDCT(12)(frequencies), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 8, 9, 1), (2, 4, 4, 1)])
def test_images_that_are_not_square_or_too_small_are_refused(shape):
    with pytest.raises(ValueError, match=f"at least 6 pixels a side, got {shape[1]} x {shape[2]}"):
        DCT(6)(np.zeros(shape, "float32"))


def test_more_frequencies_than_pixels_are_refused():
    with pytest.raises(ValueError, match="InverseDCT to 4 pixels a side takes at most as many frequencies, got 5"):
        InverseDCT(4)(np.zeros((1, 5, 5, 1), "float32"))


def test_as_a_layer_of_a_keras_model(colour_images):
    model = keras.Sequential([keras.Input((12, 12, 3)), DCT(12), InverseDCT(12)])
    np.testing.assert_allclose(model.predict(colour_images, verbose=0), colour_images, atol=1e-5)
