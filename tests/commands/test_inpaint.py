"""The command that draws the missing pixels of a picture, and the option of sample that enlarges small ones."""

import numpy as np
import pytest
from PIL import Image

from dvpvae_tf import inpaint, sample
from dvpvae_tf.command_line import inputs as command_inputs
from dvpvae_tf.data.folder import read_mask
from dvpvae_tf.models import DVPVAE
from dvpvae_tf.models.inpainting import Inpainted
from dvpvae_tf.pictures import to_uint8


@pytest.fixture(scope="module")
def models(tiny, images):
    """Models by name; each is made once, to make its graphs once."""
    made = {"dct": tiny(), "downsample": tiny(pseudoinput="downsample")}
    for model in made.values():
        model.adapt(images(50))
    return made


@pytest.fixture
def picture(images, models, tmp_path, monkeypatch):
    """A picture of the model's size in the file `blob.png`, and masks beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_inputs, "model_of", lambda arguments: models[arguments.model])
    picture = images(1, seed=3)[0]
    lower = np.zeros((8, 8), "uint8")
    lower[4:] = 255
    pixels = {"blob": picture[..., 0], "lower": lower, "none": 0 * lower, "all": 255 + 0 * lower, "larger": lower}
    for name, values in pixels.items():
        Image.fromarray(values).resize((9, 8) if name == "larger" else (8, 8)).save(f"{name}.png")
    return picture


OPTIONS = ["--model=dct", "--image=blob.png", "--num=3", "--rounds=2", "--chains=3", "--seed=5"]


def arrays(path):
    with np.load(path) as file:
        return dict(file)


@pytest.mark.parametrize("file", ["blob.png", "lower.png"])
def test_the_picture_and_its_mask_are_not_replaced(picture, file, capsys):
    before = np.asarray(Image.open(file))
    with pytest.raises(SystemExit) as stop:
        inpaint.main([*OPTIONS, "--mask=lower.png", f"--output={file}"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: the output {file} is the file that is read: give another name\n"
    np.testing.assert_array_equal(np.asarray(Image.open(file)), before)


@pytest.mark.slow
def test_a_mask_and_a_box_fill_the_same_gap(picture, models, capsys):
    for index, gap in enumerate(("--mask=lower.png", "--box=4,0,4,8")):
        inpaint.main([*OPTIONS, gap, f"--output={index}.npz"])
        assert "32 of 64 pixels are missing; 6 candidates for each draw" in capsys.readouterr().out
    missing = np.zeros((8, 8), bool)
    missing[4:] = True
    expected = models["dct"].inpaint(np.stack([picture] * 3), missing, rounds=2, chains=3, seed=5).images
    for index in range(2):
        found = arrays(f"{index}.npz")
        assert list(found) == ["images"]
        assert np.abs(found["images"].astype(int) - to_uint8(expected)).max() <= 1
        np.testing.assert_array_equal(found["images"][:, ~missing], np.stack([picture] * 3)[:, ~missing])
    assert len({draw.tobytes() for draw in arrays("0.npz")["images"]}) == 3


def test_a_grid_starts_with_the_picture_and_its_gap(picture, monkeypatch):
    asked = {}

    def draw(_, pictures, missing, **options):
        asked.update(options)
        return Inpainted(np.where(missing[..., None], np.float32(1), pictures), np.ones(len(pictures)))

    monkeypatch.setattr(DVPVAE, "inpaint", draw)
    options = [option for option in OPTIONS if option != "--chains=3"]
    inpaint.main([*options, "--box=0,0,8,4", "--approximate", "--pixels=draw", "--output=grid.png"])
    grid = np.asarray(Image.open("grid.png"))
    assert grid.shape == (96, 4 * 80 + 16)
    tiles = [grid[16:80:8, start : start + 64 : 8] for start in range(16, 336, 80)]  # each pixel is a square of 8 x 8
    for tile, of_gap in zip(tiles, (128, 255, 255, 255), strict=True):
        np.testing.assert_array_equal(tile[:, :4], of_gap)
        np.testing.assert_array_equal(tile[:, 4:], picture[:, 4:, 0])
    assert asked == {"rounds": 2, "chains": 20, "approximate": True, "pixels": "draw", "steps": None, "seed": 5}


def test_a_mask_goes_where_its_picture_goes(tmp_path):
    """Both are cropped, resized and turned alike; a transparent mask hides nothing."""
    wide = np.zeros((20, 40), "uint8")
    wide[:, 20:30] = 255
    Image.fromarray(wide).save(tmp_path / "mask.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me to the right"
    Image.fromarray(wide.T).save(tmp_path / "turned.png", exif=exif)
    Image.new("RGBA", (40, 20), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    found = read_mask(tmp_path / "mask.png", tmp_path / "turned.png", 10)
    assert found[:, 5:].all() and not found[:, :5].any()
    assert not read_mask(tmp_path / "clear.png", tmp_path / "mask.png", 10).any()


def test_small_pictures_are_enlarged(picture, models, capsys):
    small = picture.reshape(4, 2, 4, 2).mean(axis=(1, 3)).round().astype("uint8")
    Image.fromarray(small).save("small.png")
    options = ["--model=dct", "--num=3", "--temperature=1", "--seed=2"]
    sample.main([*options, "--from-small-image=small.png", "--output=large.npz"])
    assert "small.png: 4 x 4 pixels, L\n" in capsys.readouterr().out
    u = models["dct"].pseudoinput.from_small_images(small[None, ..., None])[0]
    found = arrays("large.npz")
    expected = models["dct"].sample(3, seed=2, pseudoinput=u)
    assert np.abs(found["images"].astype(int) - to_uint8(expected)).max() <= 1


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        (
            inpaint,
            [*OPTIONS, "--mask=larger.png"],
            "larger.png has 9 x 8 pixels, but blob.png has 8 x 8: give them one",
        ),
        (inpaint, [*OPTIONS, "--mask=none.png"], "the mask is empty: no pixel is missing"),
        (inpaint, [*OPTIONS, "--mask=all.png"], "the mask covers all of an image: leave some pixels"),
        (inpaint, [*OPTIONS, "--mask=no.png"], "cannot read the picture no.png"),
        (inpaint, [*OPTIONS[1:], "--model=dct", "--image=no.png", "--box=0,0,1,1"], "cannot read the picture no.png"),
        (inpaint, [*OPTIONS, "--box=4,0,5,8"], "--box 4,0,5,8 leaves the picture: the model's have 8 x 8 pixels"),
        (inpaint, [*OPTIONS, "--box=4,0,4"], "4,0,4 is no rectangle: give four whole numbers"),
        (inpaint, [*OPTIONS, "--box=4,0,0,8"], "4,0,0,8 is no rectangle"),
        (inpaint, OPTIONS, "one of the arguments --mask --box is required"),
        (inpaint, [*OPTIONS, "--box=0,0,1,1", "--mask=none.png"], "not allowed with argument"),
        (inpaint, [*OPTIONS, "--box=0,0,1,1", "--approximate"], "not allowed with argument --chains"),
        (inpaint, [*OPTIONS, "--box=0,0,1,1", "--chains=20", "--approximate"], "not allowed with argument --chains"),
        (inpaint, ["--model=downsample", *OPTIONS[1:], "--box=0,0,1,1", "--chains=0"], "0 is not a whole number from"),
        (sample, ["--model=dct", "--from-small-image=none.npz"], "cannot read the picture none.npz"),
        (sample, ["--model=dct", "--from-small-image=tiny.png"], "tiny.png has a side of 2 pixels, not 3 to 8"),
        (sample, ["--model=downsample", "--from-small-image=blob.png"], "pseudoinputs of the kind dct"),
        (sample, ["--model=dct", "--from-small-image=blob.png", "--label=3"], "not allowed with argument"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_mistakes_give_a_one_line_error(picture, tmp_path, command, options, message, capsys):
    Image.fromarray(np.zeros((2, 2), "uint8")).save("tiny.png")
    with pytest.raises(SystemExit) as stop:
        command.main([*options, "--output=x.npz"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "x.npz").exists()
