"""The command that draws images from a trained model."""

import os
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

from dvpvae_tf import pictures, sample
from dvpvae_tf.command_line import inputs as command_inputs
from dvpvae_tf.models import DVPVAE, Samples, sampling

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny, images):
    """A folder of models: `dvp.keras`, the Ladder VAE `ladder.keras`, and `raw.keras`, which was never adapted.

    The prior of `calibrated.keras` is as if calibrated, but its tables are empty.
    """
    folder = tmp_path_factory.mktemp("models")
    tiny().save(folder / "raw.keras")
    for name, model in (("dvp", tiny()), ("ladder", tiny(pseudoinput="none"))):
        model.adapt(images(50))
        model.save(folder / f"{name}.keras")
    config = tiny().get_config()
    config["prior"]["config"]["calibrated_steps"] = 3
    calibrated = DVPVAE.from_config(config)
    calibrated.adapt(images(50))
    calibrated.save(folder / "calibrated.keras")
    return folder


@pytest.fixture(scope="module")
def loaded():
    return {}


@pytest.fixture
def command(models, loaded, tmp_path, monkeypatch):
    """Runs the command in an empty folder; keywords are its options. Each model is loaded once, to make graphs once."""
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")

    load = command_inputs.model_of

    def load_once(arguments):
        key = arguments.model, arguments.mixed_precision
        if key not in loaded:
            loaded[key] = load(arguments)
        return loaded[key]

    monkeypatch.setattr(command_inputs, "model_of", load_once)

    def run(*flags, model="dvp", **options):
        pairs = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        sample.main([f"--model={models / model}.keras", *pairs, *flags])

    return run


def arrays(path):
    with np.load(path) as file:
        return dict(file)


def assert_same_levels(one, other):
    """The same up to the rounding of a float to a level."""
    assert one.shape == other.shape and one.dtype == other.dtype == "uint8"
    assert np.abs(one.astype(int) - other).max() <= 1


def test_all_kinds_of_output_hold_the_same_images_whatever_the_number_and_the_batch_size(command):
    command(num=5, batch_size=2, seed=7, output="many.npz")
    many = arrays("many.npz")
    assert list(many) == ["images", "pseudoinputs"]
    assert many["images"].shape == many["pseudoinputs"].shape == (5, 8, 8, 1)

    command(num=3, seed=7, output="folder")
    assert sorted(os.listdir("folder")) == ["000000.png", "000001.png", "000002.png"]
    folder = np.stack([np.asarray(Image.open(f"folder/{index:06}.png")) for index in range(3)])
    assert_same_levels(folder[..., None], many["images"][:3])

    command(num=4, seed=7, output="grid.png")
    rows = pictures.rows_of_samples(many["images"][:4], many["pseudoinputs"][:4], columns=4)
    assert_same_levels(np.asarray(Image.open("grid.png")), pictures.grid(rows, scale=8)[..., 0])
    assert sorted(os.listdir()) == ["folder", "grid.png", "many.npz"]

    command(num=3, seed=8, output="other.npz")
    other = arrays("other.npz")
    assert np.abs(other["pseudoinputs"].astype(int) - many["pseudoinputs"][:3]).max() > 20


def test_steps_and_temperatures_change_the_images_and_the_cost_is_told(command, capsys):
    drawn, reports = {}, {}
    for name, flags in {
        "two steps": ["--steps=2", "--ancestral"],
        "own steps": [],
        "cold": ["--prior-temperature=0", "--steps=2", "--pixels=mean"],
    }.items():
        command(*flags, num=4, output="out.npz")
        drawn[name] = arrays("out.npz")["pseudoinputs"]
        reports[name] = capsys.readouterr().out.splitlines()
    for first, one in enumerate(drawn.values()):
        for other in list(drawn.values())[first + 1 :]:
            assert np.abs(one.astype(int) - other).max() > 5
    assert reports["own steps"][0].startswith("The diffusion prior is not calibrated: python -m dvpvae_tf.fit_prior")
    assert reports["own steps"][1].startswith("Tracing the sampler")
    assert reports["own steps"][2].startswith("4 images in ") and "images per second" in reports["own steps"][2]
    assert reports["own steps"][3] == "T = 3 diffusion steps, ancestral: 3 UNet evaluations an image"
    assert reports["two steps"][2:] == [
        "T = 2 diffusion steps, ancestral: 2 UNet evaluations an image",
        "wrote out.npz",
    ]


def test_the_ancestral_process_of_a_calibrated_model_takes_any_number_of_steps(command, capsys):
    command("--ancestral", model="calibrated", steps=500, num=1, output="out.npz")
    assert "T = 500 diffusion steps, ancestral: 500 UNet evaluations an image" in capsys.readouterr().out


def test_the_ladder_vae_has_images_alone(command, capsys):
    command(model="ladder", num=3, output="out.npz")
    command(model="ladder", num=3, output="out.png")
    images = arrays("out.npz")
    assert list(images) == ["images"]
    expected = pictures.grid(pictures.rows_of_samples(**images, columns=3), scale=8)[..., 0]
    assert_same_levels(np.asarray(Image.open("out.png")), expected)
    assert "UNet" not in capsys.readouterr().out


def test_bfloat16_draws_much_the_same(command):
    command(num=4, output="full.npz")
    command("--mixed-precision", num=4, output="half.npz")
    difference = np.abs(arrays("full.npz")["images"].astype(int) - arrays("half.npz")["images"])
    assert 0 < difference.max() < 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "out.jpg"}, "out.jpg: give it a name that ends in .png or .npz, or without suffix for a folder"),
        ({"output": "nowhere/out.png"}, "there is no folder nowhere for the output"),
        ({"output": "full"}, "the output full exists and is no empty folder"),
        ({"output": "file"}, "the output file exists and is no empty folder"),
        ({"num": 257}, "257 images are too many for a grid, which takes 256: give an --output that ends in .npz"),
        ({"num": 0}, "--num: 0 is not a whole number from 1 on"),
        ({"temperature": -1}, "--temperature: -1 is not a number from 0 on"),
        (
            {"model": "none"},
            "none.keras: give the folder of a training run, a .keras file, or a trained model's name",
        ),
        ({"model": "raw"}, "raw.keras holds a model that was never trained"),
        ({"model": "ladder", "prior_temperature": 0.5}, "prior_temperature is for models with pseudoinputs"),
        ({"shard": "0/2", "output": ".."}, "--output .. is no name for a file or a new folder"),
        ({"shard": "0/2", "output": "", "num": 4}, "--output . is no name for a file or a new folder"),
        ({"model": "ladder", "steps": 5}, "--steps is for models with a diffusion prior"),
        ({"model": "ladder", "ancestral": None}, "--ancestral is for models with a diffusion prior"),
        ({"model": "calibrated", "steps": 101}, "a calibrated process takes 100 steps at most, not 101"),
        ({"colour": "red"}, "unknown option --colour"),
    ],
    ids=lambda value: " ".join(f"{key}={name}" for key, name in value.items()) if isinstance(value, dict) else "",
)
def test_mistakes_give_a_one_line_error(command, capsys, changes, message):
    Path("full").mkdir()
    Path("full", "precious").touch()
    Path("file").touch()
    flags = [f"--{name}" for name, value in changes.items() if value is None]
    options = {name: value for name, value in changes.items() if value is not None}
    with pytest.raises(SystemExit) as stop:
        command(*flags, **{"output": "out.png"} | options)
    output, error = capsys.readouterr()
    assert stop.value.code == 2 and output == ""
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert sorted(os.listdir()) == ["file", "full"] and os.listdir("full") == ["precious"]


def test_a_folder_is_filled_as_the_images_are_drawn_and_appears_when_it_is_complete(command, monkeypatch, capsys):
    """The model is a stand-in that looks, before each batch, at what has been written of those before."""
    written = []

    def in_batches(self, num, **others):
        for _ in range(num // 2):
            written.append(len(os.listdir(".writing-new")))
            assert not Path("new").exists()
            yield Samples(np.zeros((2, 8, 8, 1), "float32"), None)

    monkeypatch.setattr(sampling, "sample_in_batches", in_batches)
    Path(".writing-new").mkdir()
    Path(".writing-new", "000999.png").touch()  # left by a process that was killed
    command(num=6, batch_size=2, output="new")
    assert written == [0, 2, 4]
    assert os.listdir() == ["new"] and len(os.listdir("new")) == 6
    assert "6/6" in capsys.readouterr().out, "several batches have a progress bar"


def test_a_full_disk_leaves_nothing_behind(command, monkeypatch, capsys):
    def save(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.utils, "save_img", save)
    monkeypatch.setattr(sampling, "sample_in_batches", lambda *_, **__: [Samples(np.zeros((2, 8, 8, 1)), None)])
    for output in ("new", "new.png"):
        with pytest.raises(SystemExit):
            command(num=2, output=output)
        told = f"{output}: No space left on device: make room and run the same command again\n"
        assert capsys.readouterr().err.endswith(told)
    assert os.listdir() == []


# One class, one picture


def test_variations_of_a_picture_share_its_u(command, models, capsys):
    picture = np.linspace(0, 255, 20 * 14 * 3).reshape(20, 14, 3).astype("uint8")
    Image.fromarray(picture).save("photo.jpg")
    command("--from-image=photo.jpg", "--output=few.npz", num=3)
    told = capsys.readouterr().out
    assert "photo.jpg: 14 x 20 pixels, RGB; cropped to a square, resized to 8 x 8, converted to grey\n" in told
    assert "UNet" not in told and "not calibrated" not in told, "the prior over u is not used"
    drawn = arrays("few.npz")
    assert (drawn["pseudoinputs"] == drawn["pseudoinputs"][:1]).all()
    assert len(np.unique(drawn["images"], axis=0)) == 3
    command("--from-image=photo.jpg", "--output=more.npz", num=5, batch_size=2)
    np.testing.assert_allclose(arrays("more.npz")["images"][:3].astype(int), drawn["images"], atol=1)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("dvp", ["--label=3"], "has no labels: train --labels"),
        ("dvp", ["--from-image=none.png"], "cannot read the picture none.png"),
        ("dvp", ["--label=3", "--from-image=none.png"], "not allowed with argument"),
        ("dvp", ["--steps=3", "--from-image=none.png"], "say how u is drawn, and a picture gives it"),
        ("dvp", ["--ancestral", "--from-small-image=none.png"], "say how u is drawn, and a picture gives it"),
        ("dvp", ["--prior-temperature=0", "--from-image=none.png"], "say how u is drawn, and a picture gives it"),
        ("ladder", ["--from-image=none.png"], "is for models with pseudoinputs"),
    ],
)
def test_classes_and_pictures_that_cannot_be_had_give_a_one_line_error(command, model, options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        command(*options, "--output=x.npz", model=model)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1
    assert not Path("x.npz").exists()
