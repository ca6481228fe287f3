"""The files that run TensorFlow Serving: against its own formats, and against what they name."""

import re
from pathlib import Path

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "serving"
# The messages of its batching and monitoring files, which its Python package does not bring: name, type, number.
WRAPPED = ".google.protobuf.Int64Value"
MESSAGES = {
    "BatchingParameters": [
        ("max_batch_size", WRAPPED, 1),
        ("batch_timeout_micros", WRAPPED, 2),
        ("max_enqueued_batches", WRAPPED, 3),
        ("num_batch_threads", WRAPPED, 4),
    ],
    "PrometheusConfig": [("enable", "bool", 1), ("path", "string", 2)],
    "MonitoringConfig": [("prometheus_config", ".checked.PrometheusConfig", 1)],
}
TYPES = {
    "bool": descriptor_pb2.FieldDescriptorProto.TYPE_BOOL,
    "string": descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
}


def read(name, message):
    return text_format.Parse((FOLDER / name).read_text(encoding="utf-8"), message)


@pytest.fixture(scope="module")
def messages():
    file = descriptor_pb2.FileDescriptorProto(name="checked.proto", package="checked")
    file.dependency.append(wrappers_pb2.DESCRIPTOR.name)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, kind, number in fields:
            added = message.field.add(name=field, number=number, label=1)
            if kind in TYPES:
                added.type = TYPES[kind]
            else:
                added.type, added.type_name = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE, kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"checked.{name}")) for name in MESSAGES}


def test_the_models_are_those_that_come_with_the_project():
    config = pytest.importorskip(
        "tensorflow_serving.config.model_server_config_pb2", reason="its format comes with tensorflow-serving-api"
    )
    models = read("models.config", config.ModelServerConfig()).model_config_list.config
    assert {model.name for model in models} == {
        path.name for path in (ROOT / "saved_models").iterdir() if path.is_dir()
    }
    for model in models:
        assert model.base_path == f"/models/{model.name}" and model.model_platform == "tensorflow"


def test_batches_are_bounded(messages):
    batching = read("batching.config", messages["BatchingParameters"]())
    assert batching.max_batch_size.value * batching.num_batch_threads.value > 1
    assert 0 < batching.batch_timeout_micros.value < 100_000 and batching.max_enqueued_batches.value > 0


def test_prometheus_finds_the_metrics(messages):
    monitoring = read("monitoring.config", messages["MonitoringConfig"]()).prometheus_config
    compose = (FOLDER / "docker-compose.yml").read_text(encoding="utf-8")
    assert monitoring.enable and f"8501{monitoring.path}" in compose


def test_the_server_finds_every_file_and_is_seen_by_this_machine_alone():
    (service,) = yaml.safe_load((FOLDER / "docker-compose.yml").read_text(encoding="utf-8"))["services"].values()
    mounted = {volume["target"]: (FOLDER / volume["source"]).resolve() for volume in service["volumes"]}
    assert mounted == {"/models": ROOT / "saved_models", "/serving": FOLDER}
    assert all(volume["read_only"] for volume in service["volumes"])
    files = [match[1] for option in service["command"] if (match := re.search(r"_file=/serving/(.+)$", option))]
    assert len(files) == 3 and all((FOLDER / file).is_file() for file in files)
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
