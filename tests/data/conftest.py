import pathlib
import pytest


@pytest.fixture
def shared():
    return pathlib.Path("/work/shared")
