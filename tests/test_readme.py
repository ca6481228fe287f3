"""The README's notebook snippets do what their comments say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"

CHECKS = """
import numpy as np
assert {"negative_elbo", "bits_per_dim", "reconstruction", "kl_z", "kl_u"} <= set(result)
assert 100 < result["negative_elbo"] < 600  # weights start unseeded; before the first step it is above 1,000
assert images.dtype == np.float32 and images.shape == (16, 28, 28, 1) and 0 <= images.min() and images.max() <= 1
np.testing.assert_array_equal(images, model.sample(16, temperature=0.9, seed=0))
assert len(inference.kl) == 8 and inference.kl[0].shape == (16,)
again = keras.saving.load_model("m.keras").evaluate(test, return_dict=True, verbose=0)
expected = model.evaluate(test, return_dict=True, verbose=0)
np.testing.assert_allclose(again["negative_elbo"], expected["negative_elbo"], rtol=1e-5)
"""

MORE_IMAGES = "images = next(iter(test)).numpy()[:20]\n"
MORE_CHECKS = """
from pathlib import Path
assert Path("figure4.png").stat().st_size > 1000
assert list(rows) == ["input", "pseudoinput", "u", "u, z"]
assert result.estimates.shape == (20,) and result.kl_z.shape == (20, 8)
assert result.estimates.mean() < result.negative_elbo.mean()
assert drawn.images.shape == drawn.pseudoinputs.shape == (64, 28, 28, 1)
"""


@pytest.mark.slow
def test_the_notebook_snippets_work_as_written(tmp_path):
    text = README.read_text(encoding="utf-8")
    starts = ("import keras, dvpvae_tf", "from dvpvae_tf import evaluation")
    first, second = (re.search(rf"```python\n({start}.*?)```", text, re.DOTALL)[1] for start in starts)
    result = subprocess.run(
        [sys.executable, "-c", first + CHECKS + MORE_IMAGES + second + MORE_CHECKS],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(README.parent)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Warning" not in result.stderr
