"""What the pages of `benchmarks/` have in common."""

import argparse
import sys
from pathlib import Path

import pytest

from dvpvae_tf.errors import UserError


@pytest.fixture(scope="module")
def script(import_benchmark):
    return import_benchmark("pages")


def test_a_run_has_a_name_and_a_folder_that_may_hold_any_sign(script):
    assert script.named_run("T = 5=runs/a@5") == ("T = 5", Path("runs/a@5"))
    for wrong in ("runs/a", "=runs/a", "a="):
        with pytest.raises(argparse.ArgumentTypeError, match="is not NAME=RUN"):
            script.named_run(wrong)


def test_a_folder_that_is_no_run_is_refused(script, tmp_path):
    (tmp_path / "metrics.csv").touch()
    runs = [script.NamedRun("a", tmp_path)]
    script.check_has_files(runs, "metrics.csv")
    with pytest.raises(UserError, match="has no config.yaml: give the folder of a training"):
        script.check_has_files(runs, "metrics.csv", "config.yaml")


def test_the_command_of_a_page_can_be_repeated_elsewhere(script, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/a/benchmarks/x.py", "a b=mnist", "--data-dir", "/data", "--limit", "5"])
    assert script.command_block() == ["```bash", "python benchmarks/x.py 'a b=mnist' --limit 5", "```"]
    monkeypatch.setattr(sys, "argv", ["x.py", "--data-dir=/data"])
    assert script.command_block()[1] == "python benchmarks/x.py"
