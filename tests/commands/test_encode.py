"""The commands that take images apart, put them together again, and score them."""

import argparse
import csv
import os

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from dvpvae_tf import decode, encode, evaluation, score
from dvpvae_tf.command_line import inputs as command_inputs
from dvpvae_tf.data.pipelines import LoadedDataset
from dvpvae_tf.evaluation import scores
from dvpvae_tf.evaluation.evaluator import Evaluator
from dvpvae_tf.pictures import to_uint8


@pytest.fixture(scope="module")
def model(tiny, images):
    model = tiny()
    model.adapt(images(50))
    return model


@pytest.fixture
def folder(model, images, save_splits, tmp_path, monkeypatch):
    """Eight pictures and one blank one in the folder `mine`, others in `typical`; the model is made once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command_inputs, "model_of", lambda arguments: model)
    model.save("tiny.keras")
    (tmp_path / "mine").mkdir()
    for index, image in enumerate([*images(8, seed=3), np.zeros([8, 8, 1], "uint8")]):
        Image.fromarray(image[..., 0]).save(tmp_path / "mine" / f"{index}.png")
    save_splits(tmp_path / "typical", images(200, seed=4))
    save_splits(tmp_path / "few", images(40, seed=4))
    return tmp_path / "mine"


OPTIONS = ["--model=tiny.keras", "--dataset=folder:mine"]


def arrays(path):
    with np.load(path) as file:
        return dict(file)


def test_decoding_what_encode_has_written_gives_the_reconstructions(model, folder):
    encode.main([*OPTIONS, "--batch-size=4", "--output=latents.npz"])
    found = arrays("latents.npz")
    pictures = np.stack([np.asarray(Image.open(folder / str(name)))[..., None] for name in found["files"]])
    assert found.keys() == {"u", "z_2", "z_1", "files"} and sorted(found["files"]) == [f"{i}.png" for i in range(9)]
    latents = model.encode(pictures)
    for name, expected in (("u", latents.u), ("z_2", latents.z[0]), ("z_1", latents.z[1])):
        np.testing.assert_allclose(found[name], expected, atol=1e-5)
    decode.main(["--model=tiny.keras", "--latents=latents.npz", "--pixels=mean", "--output=again.npz"])
    np.testing.assert_allclose(arrays("again.npz")["images"].astype(int), to_uint8(model.reconstruct(pictures)), atol=1)
    decode.main(["--model=tiny.keras", "--latents=latents.npz", "--only-u", "--output=varied.npz"])
    varied = arrays("varied.npz")["images"]
    assert varied.shape == (9, 8, 8, 1) and (varied != arrays("again.npz")["images"]).any()


def test_each_file_has_its_scores(model, folder, capsys):
    score.main([*OPTIONS, "--samples=5", "--reference=folder:typical", "--seed=2", "--output=scores.csv"])
    with open("scores.csv") as file:
        rows = list(csv.DictReader(file))
    pictures = np.stack([np.asarray(Image.open(folder / row["image"]))[..., None] for row in rows])
    expected = evaluation.iwae(model, pictures, samples=5, seed=2, verbose=0)
    numbers = {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "image"}
    np.testing.assert_allclose(numbers["nats"], expected.estimates, rtol=1e-4)
    np.testing.assert_allclose(numbers["bits_per_dim"], expected.estimates / (64 * np.log(2)), rtol=1e-4)
    assert (numbers["nats_error"] > 0).all() and (numbers["typicality"] > 0).all()
    assert f"9 images, {numbers['bits_per_dim'].mean():.4f} bits per dimension" in capsys.readouterr().out


def test_images_and_references_of_one_data_set_are_read_once(model, images, monkeypatch, tmp_path):
    asked = []

    def read_dataset(**settings):
        asked.append(settings["name"])
        return LoadedDataset(tuple(images(num, seed=num) for num in (30, 25, 12)))

    monkeypatch.setattr(command_inputs, "model_of", lambda arguments: model)
    monkeypatch.setattr(command_inputs, "trained_on_data", lambda *_: "tfds:blobs")
    monkeypatch.setattr(command_inputs, "read_dataset", read_dataset)
    found = []
    row = {"bits_per_dim": 1.0}
    monkeypatch.setattr(score, "score_rows", lambda *inputs: found.append((len(inputs[2]), len(inputs[4]))) or [row])
    options = ["--model=m.keras", f"--output={tmp_path / 'scores.csv'}", "--limit"]
    for limit, *dataset in (("all",), ("3", "--dataset=tfds:blobs"), ("3", "--dataset=tfds:x")):
        score.main([*options, limit, *dataset])
    assert found == [(12, 25), (3, 25), (3, 25)]
    assert asked == ["tfds:blobs", "tfds:blobs", "tfds:blobs", "tfds:x"]


def test_each_data_set_takes_its_own_options(monkeypatch):
    given = argparse.Namespace(model="m.keras", dataset="folder:mine", reference="mnist", image_size=8)
    for option, value in (("data_dir", "there"), ("background", "black"), ("omniglot_mat", "x"), ("skip_broken", None)):
        setattr(given, option, value)
    of_data, of_reference = (vars(each) for each in score._split_options(given))
    assert of_data["dataset"] == "folder:mine" and of_reference["dataset"] == "mnist"
    assert (of_data["data_dir"], of_data["background"], of_data["image_size"]) == (None, "black", 8)
    assert (of_reference["data_dir"], of_reference["background"], of_reference["image_size"]) == ("there", None, None)
    assert of_data["omniglot_mat"] == of_reference["omniglot_mat"] == "x"  # neither takes it: it is refused


def test_the_error_is_that_of_the_mean_over_the_draws():
    """Of log-normal weights, whose bounds vary over the images as their errors say."""
    log_weight = 0.5 * np.random.default_rng(0).normal(size=(20, 4000))
    terms = {"reconstruction": log_weight, "kl_u": log_weight, "kl_z": log_weight[..., None]}
    found = scores._of_batch({"log_weight": log_weight, **terms})
    assert np.sqrt(np.mean(found.errors**2)) == pytest.approx(found.nats.std(ddof=1), rel=0.05)


def test_a_score_does_not_depend_on_the_batch(model, images):
    data = images(7)
    whole, parts, few = (evaluation.score(model, data, 3, batch_size=size, verbose=0) for size in (100, 6, 2))
    np.testing.assert_allclose(whole.nats, parts.nats, rtol=1e-4)
    np.testing.assert_allclose(whole.nats, few.nats, rtol=1e-4)
    np.testing.assert_allclose(whole.errors, few.errors, rtol=1e-2)
    assert np.isnan(evaluation.score(model, data[:2], 1, verbose=0).errors).all()


def test_no_more_rows_than_the_batch_size_are_computed_at_a_time(model, images, monkeypatch):
    rows, draw_terms = [], Evaluator.draw_terms

    def count(self, data, seed, first, draws, steps):
        rows.append(len(data.target) * len(draws))
        return draw_terms(self, data, seed, first, draws, steps)

    monkeypatch.setattr(Evaluator, "draw_terms", count)
    evaluation.score(model, images(3), 5, batch_size=2, verbose=0)
    assert rows == 3 * [2, 2, 1]


def test_a_file_whose_name_is_no_text_has_its_row(model, folder):
    os.rename(next(folder.glob("*.png")), os.fsencode(folder) + b"/caf\xe9.png")
    score.main([*OPTIONS, "--samples=2", "--reference=folder:typical", "--output=scores.csv"])
    with open("scores.csv", "rb") as file:
        assert sum(b"caf\xe9.png," in line for line in file) == 1


def test_typicality_is_a_mahalanobis_distance():
    rng = np.random.default_rng(0)
    covariance = np.array([[2.0, 0.5, 0], [0.5, 1.0, 0], [0, 0, 0]])  # the last term is constant
    reference = rng.multivariate_normal([1, 2, 3], covariance, 20_000)
    found = evaluation.typicality(rng.multivariate_normal([1, 2, 3], covariance, 5000), reference)
    assert stats.kstest(2 * found**2, stats.chi2(2).cdf).pvalue > 1e-3  # over the two terms that vary
    assert evaluation.typicality(np.array([[1.0, 8.0, 3.0]]), reference)[0] > 3


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        (encode, [*OPTIONS, "--output=x.csv"], "give it a name that ends in .npz"),
        (encode, ["--model=tiny.keras", "--output=x.npz"], "does not say what data it was trained on"),
        (decode, ["--model=tiny.keras", "--latents=none.npz", "--output=x.png"], "none.npz cannot be read"),
        (decode, ["--model=tiny.keras", "--latents=u.npy", "--output=x.png"], "give the .npz file that `encode` has"),
        (
            decode,
            ["--model=tiny.keras", "--latents=other.npz", "--output=x.png"],
            "other.npz has Z_2, a, z_3, which are no latents",
        ),
        (decode, ["--model=tiny.keras", "--latents=files.npz", "--output=x.png"], "Give u or at least one z"),
        (decode, ["--model=tiny.keras", "--latents=text.npz", "--output=x.png"], "u must hold real numbers, not <U1"),
        (encode, [*OPTIONS, "--output=x.npz", "--seed=5"], "--seed is for --draw"),
        (encode, [*OPTIONS, "--output=x.npz", "--split=test"], "mine has 9 different pictures: at least 10 are needed"),
        (
            encode,
            [*OPTIONS, "--output=x.npz", "--omniglot-mat=x.mat"],
            "folder:mine takes no omniglot_mat: leave out what",
        ),
        (score, [*OPTIONS, "--output=x.csv", "--reference=folder:few"], "there are 4 validation images of folder:few"),
        (score, [*OPTIONS, "--output=x.csv", "--references=3"], "--references is 3: give 20 or more"),
        (score, [*OPTIONS, "--output=x.csv"], "or give --reference a data set of typical images"),
        (score, [*OPTIONS, "--output=x.csv", "--steps=0"], "0 is not a whole number from 1 on"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_mistakes_give_a_one_line_error(folder, command, options, message, capsys):
    np.savez("other.npz", a=1, Z_2=1, z_3=1)
    np.savez("files.npz", files=["a"])
    np.savez("text.npz", u=np.full([1, 3, 3, 1], "x"))
    np.save("u.npy", np.zeros([1, 3, 3, 1]))
    with pytest.raises(SystemExit) as stop:
        command.main(options)
    error = capsys.readouterr().err
    *told, line = error.splitlines()
    assert stop.value.code == 2 and message in line and all("pictures of" in each for each in told)
