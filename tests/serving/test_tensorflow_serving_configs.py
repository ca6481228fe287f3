"""The files that run TensorFlow Serving, against what they name."""

import re
from pathlib import Path

import pytest
import yaml
from google.protobuf import text_format

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "tensorflow-serving"


def read(name):
    return (FOLDER / name).read_text(encoding="utf-8")


def test_the_models_are_those_that_come_with_the_project():
    config = pytest.importorskip(
        "tensorflow_serving.config.model_server_config_pb2", reason="its format comes with tensorflow-serving-api"
    )
    models = text_format.Parse(read("models.config"), config.ModelServerConfig()).model_config_list.config
    assert {model.name for model in models} == {
        path.name for path in (ROOT / "saved_models").iterdir() if path.is_dir()
    }
    for model in models:
        assert model.base_path == f"/models/{model.name}" and model.model_platform == "tensorflow"


def test_batches_are_bounded():
    settings = dict(re.findall(r"^(\w+) \{ value: (\d+) \}", read("batching.config"), re.MULTILINE))
    assert set(settings) == {"max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"}
    assert int(settings["max_batch_size"]) > 1 and 0 < int(settings["batch_timeout_micros"]) < 100_000


def test_prometheus_finds_the_metrics():
    path = re.search(r'enable: true\s+path: "(.+)"', read("monitoring.config"))[1]
    assert f"8501{path}" in read("docker-compose.yml")


def test_the_server_finds_every_file_and_is_seen_by_this_machine_alone():
    (service,) = yaml.safe_load(read("docker-compose.yml"))["services"].values()
    mounted = {volume["target"]: (FOLDER / volume["source"]).resolve() for volume in service["volumes"]}
    assert mounted == {"/models": ROOT / "saved_models", "/serving": FOLDER}
    assert all(volume["read_only"] for volume in service["volumes"])
    files = [match[1] for option in service["command"] if (match := re.search(r"_file=/serving/(.+)$", option))]
    assert len(files) == 3 and all((FOLDER / file).is_file() for file in files)
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
