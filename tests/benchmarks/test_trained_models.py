"""The page of `benchmarks/trained_models.py`."""

import json
import sys

import keras
import numpy as np
import pytest

from dvpvae_tf.files import write_csv


@pytest.mark.slow
def test_the_page_of_one_model_with_two_processes(import_benchmark, tmp_path, tiny, images, monkeypatch):
    """One process has 6 images, the other 4: their difference is that of the images that both have."""
    model = tiny()
    model.adapt(images(64))
    model.calibrate(images(60, seed=1), images(20, seed=2), steps=3, draws=200)
    model.save(tmp_path / "model.keras")
    write_csv(tmp_path / "metrics.csv", [{"val_negative_elbo": 200.0}, {"val_negative_elbo": 150.0}])
    given = [f"calibrated={tmp_path}/model.keras@2", "--ancestral", f"ancestral={tmp_path}/model.keras@3"]
    given += ["--limit", "6", "--ancestral-limit", "4", "--samples", "2", "--published-limit", "2"]
    given += ["--more-samples", "3", "--more-limit", "2", "--curves", f"a run={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["trained_models.py", *given, "--output", str(tmp_path / "page.md")])
    script = import_benchmark("trained_models")
    monkeypatch.setattr(script, "read_images", lambda *_: (None, None, images(8, seed=3)))

    script.main()

    text, results = (tmp_path / "page.md").read_text(), json.loads((tmp_path / "page.json").read_text())
    assert "| calibrated | diffusion, calibrated, T = 2 | 6 | " in text
    assert "| ancestral | diffusion, ancestral, T = 3 | 4 | " in text
    assert "`iwae` with K = 3 on the first 2 images" in text
    assert (text.count("| calibrated |"), text.count("| ancestral |")) == (3, 2)  # the larger K, without --ancestral

    one, other = (np.array(results[name]["estimates"]) for name in ("calibrated", "ancestral"))
    assert (len(one), len(other)) == (6, 4)
    np.testing.assert_allclose(one.mean(), results["calibrated"]["iwae"]["nats"]["mean"], atol=1e-4)
    difference = other - one[:4]
    assert f"* ancestral: {difference.mean():+.2f} ± {difference.std(ddof=1) / 2:.2f} (4 images)" in text
    assert len(results["calibrated"]["more"]["estimates"]) == 2  # of the larger K, on fewer images
    assert keras.utils.img_to_array(keras.utils.load_img(tmp_path / "page.png")).std() > 0
