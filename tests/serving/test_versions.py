"""Which version of a model is served, and what is told of the others."""

import logging
import os
import shutil

import pytest
import tensorflow as tf

from dvpvae_tf.serving.versions import State, Versions


@pytest.fixture(scope="module")
def written(tmp_path_factory, write_version):
    """A folder with versions 1, 2 and 10."""
    folder = tmp_path_factory.mktemp("written")
    for number in (1, 2, 10):
        write_version(folder, number)
    return folder


@pytest.fixture
def copy(written, tmp_path):
    """Copies a version into the folder that is served, under its own or another name."""
    return lambda number, name=None: shutil.copytree(written / str(number), tmp_path / (name or str(number)))


def level(versions):
    """Of the version that is in fact in memory."""
    return versions.served.model.level.numpy()


def test_the_largest_number_is_served_and_other_names_are_no_versions(copy, tmp_path):
    copy(2)
    copy(10)
    for name in (".writing-11", "11.new", "v12", "-13", "١٤", "latest"):
        copy(1, name)
    (tmp_path / "15").touch()
    versions = Versions(tmp_path)
    versions.update()
    assert versions.served.version == 10 and level(versions) == 100
    assert versions.states == {10: State("AVAILABLE")}


def test_a_new_version_takes_over_and_its_removal_brings_the_old_one_back(copy, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    copy(1)
    versions = Versions(tmp_path)
    versions.update()
    first = versions.served
    versions.update()
    assert versions.served is first, "it is loaded once"
    new = copy(2)
    versions.update()
    assert level(versions) == 20
    assert versions.states == {1: State("END"), 2: State("AVAILABLE")}
    assert "version 2 takes the place of version 1" in caplog.text
    shutil.rmtree(new)
    versions.update()
    assert level(versions) == 10
    assert versions.states == {1: State("AVAILABLE"), 2: State("END")}


def test_a_version_that_cannot_be_loaded_is_told_once_and_the_old_one_stays(copy, tmp_path, caplog, monkeypatch):
    copy(1)
    versions = Versions(tmp_path)
    versions.update()
    broken = copy(2)
    (broken / "saved_model.pb").write_bytes(b"not a SavedModel")
    versions.update()
    monkeypatch.setattr(tf.saved_model, "load", lambda _: pytest.fail("it is tried again"))
    versions.update()
    monkeypatch.undo()
    (broken / "readme").touch()
    versions.update()  # tries again, as the files have changed, and fails as before
    assert level(versions) == 10
    assert versions.states[1] == State("AVAILABLE") and versions.states[2].name == "END"
    assert "saved_model.pb" in versions.states[2].error
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert caplog.records[0].getMessage().startswith("version 2 cannot be loaded and is left out: ")


def test_a_broken_version_is_tried_again_when_its_files_change(copy, written, tmp_path):
    copy(1)
    half = copy(2)
    variables = half / "variables" / "variables.data-00000-of-00001"
    whole = variables.read_bytes()
    variables.write_bytes(whole[:3])
    os.utime(variables, (1, 1))
    versions = Versions(tmp_path)
    versions.update()
    assert level(versions) == 10, "from the start the newest that loads"
    variables.write_bytes(whole)
    versions.update()
    assert level(versions) == 20


def test_a_folder_that_goes_away_leaves_what_is_served(copy, tmp_path):
    folder = copy(1)
    versions = Versions(tmp_path)
    versions.update()
    shutil.rmtree(folder)
    versions.update()
    assert level(versions) == 10
    with pytest.raises(FileNotFoundError):
        Versions(tmp_path / "nowhere").update()
