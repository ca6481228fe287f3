"""The tables of the paper: what is run for them, and what is written."""

import csv
import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from dvpvae_tf import reproduce
from dvpvae_tf.config import load_config
from dvpvae_tf.errors import UserError
from dvpvae_tf.experiments import descriptions, figures, report, runs, tables
from dvpvae_tf.experiments.descriptions import Row, Scale
from dvpvae_tf.models.loading import load_model
from dvpvae_tf.pictures import rows as pictures_of

DESCRIBED = descriptions.read_experiments()
TRAINED = DESCRIBED.tables | DESCRIBED.figures | DESCRIBED.plots


def rows_at(scale):
    return [row for experiment in TRAINED.values() for row in descriptions.rows_of(experiment, scale)]


@pytest.mark.parametrize("scale", DESCRIBED.scales)
@pytest.mark.parametrize("table", DESCRIBED.costs.values(), ids=list(DESCRIBED.costs))
def test_every_row_of_costs_has_the_papers_size_but_for_the_smallest_scale(table, scale, tmp_path):
    for row in table.rows:
        config = descriptions.row_config(row, table.scales[scale].overrides.get(row.data, {}), 0, tmp_path)
        assert config.dataset == row.data
        if scale != "smoke":
            assert config.model == load_config(row.config, row.overrides).model


@pytest.mark.parametrize("scale", DESCRIBED.scales)
def test_every_row_is_a_valid_run_of_its_data_set(scale, tmp_path):
    names, rows = {}, rows_at(scale)
    for row in rows:
        config = descriptions.row_config(row, DESCRIBED.scales[scale][row.data].overrides, 3, tmp_path)
        assert config.dataset == row.data and config.seed == 3 and config.output == str(tmp_path)
        # Rows of one name are one run; others are other runs.
        assert names.setdefault(config.name, config) == config
    assert len(names) == len({(row.config, json.dumps(row.overrides)) for row in rows})


def test_the_paper_scale_changes_nothing(tmp_path):
    for row in rows_at("paper"):
        config = descriptions.row_config(row, DESCRIBED.scales["paper"][row.data].overrides, 0, tmp_path)
        expected = load_config(row.config, row.overrides | {"name": config.name, "output": str(tmp_path)})
        assert config == expected


def test_scale_and_row_both_count(tmp_path):
    row = Row(data="mnist", system="s", config="mnist", overrides={"model": {"channels": 64}})
    scale = Scale(samples=1, overrides={"epochs": 2, "model": {"channels": 8, "hidden_channels": 4}})
    config = descriptions.row_config(row, scale.overrides, 1, tmp_path)
    assert (config.epochs, config.model.channels, config.model.hidden_channels) == (2, 64, 4)
    assert config.name == "mnist_channels_64_seed1"


def test_a_plot_has_a_row_for_each_choice_and_shares_the_run_of_the_preset():
    rows = descriptions.rows_of(DESCRIBED.plots["figure5"], "paper")
    assert len(rows) == len({(row.data, row.system) for row in rows}) == 2 * 2 * 2 * 5
    seven = next(row for row in rows if row.data == "mnist" and row.system == "dct, diffusion, 7")
    assert (
        descriptions.run_name(seven, 0) == descriptions.run_name(DESCRIBED.tables["table1"].rows[0], 0) == "mnist_seed0"
    )
    other = next(row for row in rows if row.data == "omniglot" and row.system == "downsample, mixture, 11")
    model = descriptions.row_config(other, {}, 0, "results").model
    assert (model.pseudoinput, model.prior, model.pseudoinput_size) == ("downsample", "mixture", 11)


def points_of(axes):
    return {
        line.get_label(): np.transpose(line.get_data()).tolist() for line in axes.lines if len(line.get_xdata()) > 1
    }


def test_figure_5_plots_means_and_deviations_by_size():
    rows = descriptions.rows_of(DESCRIBED.plots["figure5"], "cpu")
    nats = {row.system: 80.0 + number for number, row in enumerate(row for row in rows if row.data == "mnist")}
    done = [
        (row, [], [{"nats": nats[row.system] + each} for each in (-1.0, 1.0)]) for row in rows if row.data == "mnist"
    ]
    figure = Figure()
    figures.bound_by_size(figure, done)
    (axes,) = figure.axes
    assert axes.get_title() == "mnist" and "nats" in axes.get_ylabel()
    assert len(axes.containers) == 4
    for bars in axes.containers:
        expected = [(size, nats[f"{bars.get_label()}, {size}"]) for size in (3, 7, 11)]
        assert np.transpose(bars.lines[0].get_data()).tolist() == [list(point) for point in expected]
        (segments,) = (collection.get_segments() for collection in bars.lines[2])
        assert all(abs(top - bottom) == pytest.approx(2 * 2**0.5) for (_, bottom), (_, top) in segments)


def test_figures_7_and_8_plot_what_the_runs_have_logged(tmp_path):
    rows = descriptions.rows_of(DESCRIBED.plots["figure7"], "cpu")[:2]
    done = []
    for number, row in enumerate(rows):
        run = tmp_path / f"run{number}"
        run.mkdir()
        (run / "gradient_norms.csv").write_text(f"epoch,step,gradient_norm\n0,0,{number + 5}\n0,1,0.5\n1,0,0.25\n")
        (run / "metrics.csv").write_text(f"epoch,bits_per_dim,val_bits_per_dim\n0,{number + 6},7\n1,4,4.5\n")
        done.append((row, [run, tmp_path / "second seed"], []))
    figure = Figure()
    figures.gradient_norms(figure, done)
    assert points_of(figure.axes[0]) == {
        "L = 20": [[1, 5], [2, 0.5], [3, 0.25]], "L = 28": [[1, 6], [2, 0.5], [3, 0.25]]
    }  # fmt: skip
    figures.save_plot(tmp_path / "figure8.png", "losses", done)
    assert Image.open(tmp_path / "figure8.png").size == (1080, 480)
    figure = Figure()
    figures.losses(figure, done)
    training, validation = map(points_of, figure.axes)
    assert training == {"L = 20": [[1, 6], [2, 4]], "L = 28": [[1, 7], [2, 4]]}
    assert validation == {"L = 20": [[1, 7], [2, 4.5]], "L = 28": [[1, 7], [2, 4.5]]}


def test_the_numbers_of_the_paper_are_in_its_text(shared):
    text = (shared / "paper" / "dvp_vae.md").read_text(encoding="utf-8")
    text = re.sub(r"\s*\\mathrm\{M\}", "M", text)
    printed = {"active_units": lambda value: f"{100 * value:g}", "parameters": str}
    printed |= {"epoch_seconds": "{:.0f}s".format, "memory_gb": "{:.0f}".format, "sample_seconds": str}
    for row in (*rows_at("paper"), *DESCRIBED.costs["table6"].rows):
        for key, number in row.paper.items():
            shown = printed.get(key, lambda value: f"{value:.2f}")(number)
            assert re.search(rf"(?<![\d.]){re.escape(shown)}(?!\d)", text), (row.system, key, shown)


def test_a_row_has_means_and_deviations_over_the_seeds():
    row = Row(data="mnist", system="s", config="mnist", paper={"nats": 77.1, "deviation": 0.05, "parameters": "0.7M"})
    results = [
        {"nats": 80.0, "bits_per_dim": 0.15, "active_units": 0.9, "parameters": 646371, "published": 70.0},
        {"nats": 82.0, "bits_per_dim": 0.16, "active_units": 0.8, "parameters": 646371, "published": 71.0},
    ]
    cells = tables.summarise(row, results)
    assert cells["nats"] == f"81.00 ({np.std([80, 82], ddof=1):.2f})"
    assert cells["active_units"] == "85.0% (7.1%)" and cells["parameters"] == "646,371"
    assert cells["paper"] == "77.10 nats (0.05), 0.7M parameters"
    assert cells["continuous_time_negative_elbo"] == ""
    assert tables.summarise(row, results[:1])["nats"] == "80.00"


def test_a_table_is_written_three_times(tmp_path):
    rows = [dict.fromkeys(tables.COLUMNS, "") | {"data": "mnist", "system": "a, b", "nats": "80.00"}]
    tables.write_table(tmp_path / "table", "A title", rows, ["A note."])
    assert (tmp_path / "table.md").read_text() == (
        "# A title\n\n| data | system | iwae, nats |\n| --- | --- | --- |\n| mnist | a, b | 80.00 |\n\nA note.\n"
    )
    with open(tmp_path / "table.csv", newline="") as file:
        assert list(csv.reader(file)) == [["data", "system", "iwae, nats"], ["mnist", "a, b", "80.00"]]
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == rows


# The command


@pytest.fixture
def shallow(monkeypatch):
    """What is described, its smallest models of MNIST of two layers, which are traced soon."""
    smoke = DESCRIBED.scales["smoke"]
    overrides = smoke["mnist"].overrides
    overrides = overrides | {"model": overrides["model"] | {"layers_per_scale": [1, 1]}}
    smoke = smoke | {"mnist": smoke["mnist"].model_copy(update={"overrides": overrides})}
    described = DESCRIBED.model_copy(update={"scales": DESCRIBED.scales | {"smoke": smoke}})
    monkeypatch.setattr(descriptions, "read_experiments", lambda: described)
    return described


@pytest.fixture(scope="module")
def smoke_results(tmp_path_factory):
    """Where the commands that train the same models at the scale smoke leave and find them."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def at_hand(monkeypatch):
    """MNIST is there, as random images; nothing else is."""

    def read_images(name, *_, **__):
        if name != "mnist":
            raise UserError(f"{name} is not here")
        return tuple(np.random.default_rng(seed).integers(0, 256, (60, 28, 28, 1), "uint8") for seed in range(3))

    monkeypatch.setattr(report, "read_images", read_images)


@pytest.mark.slow
def test_a_smoke_run_writes_its_table_and_is_taken_up_again(at_hand, shallow, smoke_results, monkeypatch, capsys):
    command = ["table5", "--scale", "smoke", "--output", str(smoke_results)]
    reproduce.main(command)
    written = (smoke_results / "smoke" / "table5.md").read_text()
    assert written in capsys.readouterr().out
    *lines, difference, of_mixture = [line for line in written.splitlines() if line.startswith("| mnist")]
    assert len(lines) == 3 and "77.10 nats (0.05)" in lines[1] and "78.85 nats (0.24)" in lines[0]
    assert "omniglot was not run: omniglot is not here" in written
    assert "2 steps, 40 images seen; iwae, K = 2" in written and "not comparable" in written
    scores = json.loads((smoke_results / "smoke" / "runs" / "mnist_seed0" / "scores.json").read_text())
    assert scores["images_seen"] == 40 and scores["test_images"] == 8
    assert f"{scores['nats']:.2f}" in lines[1] and f"{scores['published']:.2f}" in lines[1]
    assert f"{scores['reconstruction']:.2f}" in lines[1] and f"{scores['kl_u']:.2f}" in lines[1]

    folders = [smoke_results / "smoke" / "runs" / name for name in ("mnist_ladder_seed0", "mnist_seed0", "mnist_seed0")]
    rows = [row for row in shallow.tables["table5"].rows if row.data == "mnist"]
    ladder, dvp, mixture = [runs.read_test_bounds(*pair)["nats"] for pair in zip(rows, folders, strict=True)]
    difference_of_images = dvp - ladder
    assert difference_of_images.mean() == pytest.approx(
        scores["nats"] - json.loads((folders[0] / "scores.json").read_text())["nats"], abs=1e-3
    )
    error = difference_of_images.std(ddof=1) / np.sqrt(8)
    assert f"| 0 | {difference_of_images.mean():.2f} +- {error:.2f} |" in difference
    assert f"| 0 | {(mixture - ladder).mean():.2f} +- " in of_mixture and "with, full mixture over u" in of_mixture

    monkeypatch.setattr(runs.training, "train", lambda *_, **__: pytest.fail("trained again"))
    reproduce.main(command)
    assert (smoke_results / "smoke" / "table5.md").read_text() == written

    monkeypatch.setattr(report, "read_images", lambda *_, **__: (np.zeros((60, 28, 28, 1), "uint8"),) * 3)
    with pytest.raises(SystemExit):
        reproduce.main(command)
    assert "has the scores of other images: give another --output, or remove that folder" in capsys.readouterr().err


@pytest.mark.slow
def test_costs_are_measured_row_by_row(at_hand, tmp_path, monkeypatch, capsys):
    table = DESCRIBED.costs["table6"]
    vamp = {"config": "mnist_vamp", "overrides": {"model": {"vamp_components": 25, "layers_per_scale": [1, 1]}}}
    rows = [table.rows[0].model_copy(update=vamp)]  # more components than images in a batch
    small = DESCRIBED.model_copy(update={"costs": {"table6": table.model_copy(update={"rows": rows})}})
    monkeypatch.setattr(descriptions, "read_experiments", lambda: small)
    reproduce.main(["table6", "--scale", "smoke", "--output", str(tmp_path)])
    written = (tmp_path / "smoke" / "table6.md").read_text()
    header = (
        "| data | system | parameters | seconds an epoch | peak memory, GB | seconds for 1,000 samples | the paper |"
    )
    assert header in written and "45 s an epoch, 3 GB, 2.2 s for 1,000 samples, 0.7M parameters" in written
    assert "Changed settings of mnist: batch_size 20, model.channels 8" in written
    (line,) = (line.split(" | ") for line in written.splitlines() if line.startswith("| mnist"))
    assert float(line[3]) > 0 and 0.2 < float(line[4]) < 10


@pytest.mark.slow
def test_a_figure_is_drawn_from_the_models_of_its_runs(at_hand, shallow, smoke_results):
    reproduce.main(["figure6", "--scale", "smoke", "--output", str(smoke_results)])
    folder = smoke_results / "smoke"
    written = (folder / "figure6.md").read_text()
    assert "Means over the seeds 0;" in written
    pictures = [np.asarray(Image.open(folder / f"figure6_{number}.png")) for number in (1, 2)]
    assert all(f"figure6_{number}.png" in written for number in (1, 2))
    # One column: a pseudoinput and five samples below one another, 28 pixels twice enlarged.
    assert pictures[0].shape == (2 * (6 * 30 + 2), 2 * (30 + 2))
    model = load_model(folder / "runs" / "mnist_seed0")
    expected = pictures_of.grid(list(pictures_of.samples_of_one_pseudoinput(model)[:, None]), scale=2)
    assert np.abs(pictures[1] - expected[..., 0].astype(float)).max() <= 1


def test_a_plot_is_drawn_from_its_runs(at_hand, tmp_path, monkeypatch):
    plot = DESCRIBED.plots["figure5"]
    rows = [row for row in plot.rows if row.data == "mnist"]
    vary = {"smoke": {"pseudoinput": ["dct"], "prior": ["mixture"], "pseudoinput_size": [3, 11]}}
    small = plot.model_copy(update={"rows": rows, "vary": vary})
    described = DESCRIBED.model_copy(update={"plots": {"figure5": small}})
    monkeypatch.setattr(descriptions, "read_experiments", lambda: described)
    trained = []

    def train(config, images, **_):
        trained.append(config)
        (tmp_path / "smoke" / "runs" / config.name).mkdir(parents=True)

    # The runs themselves are those of the tables: here only their settings and scores count.
    monkeypatch.setattr(runs.training, "train", train)
    monkeypatch.setattr(runs, "load_model", lambda path: path)
    scores = {"nats": 81.0, "nats_standard_error": None, "test_images": 1, "published_images": 1}
    scores["estimator"] = "iwae, K = 2"
    monkeypatch.setattr(runs, "_score", lambda *_: scores)
    reproduce.main(["figure5", "--scale", "smoke", "--output", str(tmp_path)])
    written = (tmp_path / "smoke" / "figure5.md").read_text()
    assert "iwae, K = 2 on 1 test images; the published estimate on 1.\n" in written, (
        "of one image there is no standard error"
    )
    assert "(figure5.png)" in written and "| mnist | dct, mixture, 11 |" in written
    assert Image.open(tmp_path / "smoke" / "figure5.png").size == (1080, 480)
    names = [f"mnist_prior_mixture_pseudoinput_size_{size}_seed0" for size in (3, 11)]
    assert [config.name for config in trained] == names
    assert [(config.model.prior, config.model.pseudoinput_size) for config in trained] == [
        ("mixture", 3),
        ("mixture", 11),
    ]


@pytest.fixture(scope="module")
def adapted(tiny, images):
    """The models of two seeds."""
    models = [tiny(seed=seed) for seed in (0, 1)]
    for model in models:
        model.adapt(images())
    return models


@pytest.mark.parametrize("figure", DESCRIBED.figures.values(), ids=list(DESCRIBED.figures))
def test_what_each_figure_draws(figure, adapted, images):
    rows = figures.OF_IMAGES[figure.draw](adapted, images())
    assert pictures_of.grid(rows).ndim == 3
    expected = {"figure6": (6, 2), "figure4": (5, 12), "figure3": (2, 16), "figure9": (8, 16), "figure10": (8, 16)}
    name = next(name for name, value in DESCRIBED.figures.items() if value is figure)
    assert (len(rows), len(rows[0])) == expected[name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("table7", "argument what: invalid choice: 'table7'"),
        ("table5 --scale huge", "argument --scale: invalid choice: 'huge'"),
        ("table5 --seeds 0,x", "argument --seeds: x is not a whole number from 0"),
        ("table5 --seeds 0,1,0", "argument --seeds: 0,1,0 names a seed twice"),
        ("table6 --seeds 1", "--seeds is not for table6, which measures costs with seed 0"),
        ("table3 --data mnist", "table3 has no rows of mnist: give --data cifar10"),
        ("table3", "cifar10 is not here"),
    ],
)
def test_mistakes_give_a_one_line_error(at_hand, options, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        reproduce.main([*options.split(), "--output", str(tmp_path)])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())
