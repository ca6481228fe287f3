"""What the options of a command name: the images, at the size of the model."""

import argparse

import keras
import pytest

from dvpvae_tf.command_line import inputs as command_inputs
from dvpvae_tf.errors import UserError


@pytest.fixture
def arguments(tmp_path, leave_run, images):
    """Options that name a run and a folder of images of 16 x 16."""
    for index, image in enumerate(images(20, side=16)):
        keras.utils.save_img(tmp_path / f"{index}.png", image, scale=False)
    return argparse.Namespace(
        model=str(leave_run()),
        dataset=f"folder:{tmp_path}",
        split="test",
        data_dir=None,
        image_size=None,
        omniglot_mat=None,
        background=None,
        skip_broken=None,
    )


def test_pictures_are_resized_to_the_model_unless_told_otherwise(arguments, tiny):
    model = tiny()
    assert command_inputs.images_of(arguments, model).shape[1:] == (8, 8, 1)
    arguments.image_size = 16
    with pytest.raises(UserError, match="has images of 16 x 16 x 1 but the model is for 8 x 8 x 1"):
        command_inputs.images_of(arguments, model)
