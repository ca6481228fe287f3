"""The command that reconstructs images step by step and interpolates between them."""

import os

import numpy as np
import pytest
from PIL import Image

from dvpvae_tf import pictures, reconstruct
from dvpvae_tf.config import load_config, write_config
from dvpvae_tf.data.pipelines import read_images
from dvpvae_tf.models.loading import load_model


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny, tiny_settings, images, save_splits):
    """A folder with 60 pictures, the run `run` that was trained on them, and the Ladder VAE `ladder.keras`."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "run").mkdir()
    save_splits(folder / "pictures", images(60))
    settings = {"dataset": f"folder:{folder / 'pictures'}", "image_size": 8, "model": tiny_settings, "batch_size": 8}
    write_config(load_config("mnist5k", settings), folder / "run" / "config.yaml")
    for file, model in (("run/best.keras", tiny()), ("ladder.keras", tiny(pseudoinput="none"))):
        model.adapt(images(50))
        model.save(folder / file)
    return folder


@pytest.fixture
def command(place, tmp_path, monkeypatch):
    """Runs the command in an empty folder; keywords are its options."""
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")

    def run(*flags, model="run", output="out.png", **options):
        pairs = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        reconstruct.main([f"--model={place / model}", f"--output={output}", *pairs, *flags])

    return run


def split_of(place, split):
    return read_images(f"folder:{place / 'pictures'}", image_size=8)[split]


def assert_holds(path, rows):
    """The file is the grid of these rows, up to the rounding of a float to a level."""
    saved, expected = np.asarray(Image.open(path)), pictures.grid(list(rows.values()), scale=8)[..., 0]
    assert saved.shape == expected.shape
    assert np.abs(saved.astype(int) - expected).max() <= 1


def test_the_picture_shows_the_images_asked_for_and_the_rows_are_named(command, place, capsys):
    command(num=3, first=2, seed=4, temperature=0.5)
    model = load_model(place / "run")
    rows = pictures.partial_reconstructions(model, split_of(place, 2)[2:5], temperature=0.5, seed=4)
    assert_holds("out.png", rows)
    assert [line[4:] for line in capsys.readouterr().out.splitlines()[1:-1]] == list(rows)

    command(num=2, split="validation", output="validation.png")
    expected = pictures.partial_reconstructions(model, split_of(place, 1)[:2])
    assert_holds("validation.png", expected)


def test_an_interpolation_goes_between_the_images_asked_for(command, place, capsys):
    command("--interpolate", "5", "1", num=4, seed=4, temperature=0.5)
    test = split_of(place, 2)
    rows = pictures.interpolation(load_model(place / "run"), test[5], test[1], 4, temperature=0.5, seed=4)
    assert_holds("out.png", rows)
    assert [line[4:] for line in capsys.readouterr().out.splitlines()[1:-1]] == list(rows)


def test_a_ladder_vae_and_a_model_file_with_a_data_set(command, place, capsys):
    data = {"dataset": f"folder:{place / 'pictures'}", "image_size": 8}
    command(model="ladder.keras", num=3, **data)
    command("--interpolate", "0", "1", model="ladder.keras", num=3, **data)
    names = [line[4:] for line in capsys.readouterr().out.splitlines() if line[:3].strip().isdigit()]
    assert names == ["input", "z at 2 x 2", "z at 2 x 2, 4 x 4", "input", "z"]


def test_a_vamp_prior_has_nothing_to_interpolate(command, place, tiny, images, capsys):
    model = tiny(pseudoinput="none", vamp_components=4)
    model.adapt(images(50))
    model.save(place / "vamp.keras")
    with pytest.raises(SystemExit) as stop:
        command("--interpolate", "0", "1", model="vamp.keras", dataset=f"folder:{place / 'pictures'}")
    assert stop.value.code == 2
    message = "error: Under a VampPrior the top latent has no noise to interpolate: take another model."
    assert capsys.readouterr().err.splitlines()[-1] == message


def test_bfloat16(command):
    command("--mixed-precision", num=2)
    assert os.listdir() == ["out.png"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output=out.npz"], "out.npz: give it a name that ends in .png\n"),
        (["--output=nowhere/out.png"], "there is no folder nowhere for the output"),
        (["--num=101"], "--num is 101: give a number of columns from 1 to 100"),
        (["--interpolate", "0", "1", "--num=1"], "--num is 1: give a number of columns from 2 to 100"),
        (["--num=4", "--first=3"], "images 3 to 6 asked for, but the test split has 0 to 5"),
        (["--num=1", "--first=-1"], "images -1 to -1 asked for, but the test split has 0 to 5"),
        (["--interpolate", "0", "6"], "images 0 to 6 asked for, but the test split has 0 to 5"),
        (["--interpolate", "-1", "0"], "images -1 to 0 asked for, but the test split has 0 to 5"),
        (["--interpolate", "0", "1", "--first=2"], "not allowed with argument"),
        (["--interpolate", "0", "1", "--first=0"], "not allowed with argument"),
        (["--interpolate", "0"], "--interpolate: expected 2 arguments"),
        (["--dataset=mnits"], "unknown data set mnits (did you mean mnist?)"),
        (["--dataset=mnist5k"], "mnist5k has images of 28 x 28 x 1 but the model is for 8 x 8 x 1"),
        (["--model=none"], "none: give the folder of a training run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_give_a_one_line_error(command, capsys, flags, message):
    with pytest.raises(SystemExit) as stop:
        command(*flags)
    output, error = capsys.readouterr()
    assert stop.value.code == 2 and output == ""
    *told, line = error.splitlines()
    assert line.startswith("error: ") and message in line + "\n"
    assert all(": 60 pictures of 8 x 8 pixels (L 60)" in each for each in told)  # what was read of the folder
    assert os.listdir() == []


def test_a_model_file_alone_names_no_data(command, capsys):
    with pytest.raises(SystemExit):
        command(model="ladder.keras")
    assert "give --dataset" in capsys.readouterr().err
