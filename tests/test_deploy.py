"""The job files of `deploy/`, as far as they can be checked without a cluster: their formats, and what they start."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[1] / "deploy"
KUBERNETES = sorted(FOLDER.glob("*.yaml"))
SLURM = sorted(FOLDER.glob("*.slurm"))
# What the job files start: each notes or checks what it is given, and none imitates the program of its name.
FAKES = {
    # Says what it was asked to do, and ends as it is told to.
    "python": 'echo "$@" >> called\necho "${TF_CONFIG:-}" >> configs\nexit "${ENDS_WITH:-0}"',
    "scontrol": 'test "$*" = "show hostnames gpu[01-03]" && printf "gpu%s\\n" 01 02 03',
    # Starts the one process that SLURM_PROCID numbers.
    "srun": 'shift\nexec "$@"',
}


@pytest.fixture
def run(tmp_path):
    """Runs a command in a folder of its own with the fakes on the PATH; gives the lines of both of python's files."""
    for name, body in FAKES.items():
        fake = tmp_path / name
        fake.write_text(f"#!/bin/bash\n{body}\n")
        fake.chmod(0o755)

    def run(command, code=0, **variables):
        environment = {"PATH": f"{tmp_path}{os.pathsep}{os.defpath}", **variables}
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert result.returncode == code, result.stderr
        return [(tmp_path / name).read_text().splitlines() for name in ("called", "configs")]

    return run


def part_of(name, kind):
    (part,) = (part for part in yaml.safe_load_all((FOLDER / name).read_text()) if part["kind"] == kind)
    return part


def container_of(name):
    (container,) = part_of(name, "Job")["spec"]["template"]["spec"]["containers"]
    return container


def run_container(run, name, index):
    container = container_of(name)
    variables = {variable["name"]: variable["value"] for variable in container["env"]}
    return run(container["command"] + container["args"], JOB_COMPLETION_INDEX=str(index), **variables)


def check_cluster(configs, addresses):
    assert len(configs) == len(addresses)
    for index, config in enumerate(map(json.loads, configs)):
        assert config == {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_the_kubernetes_files_keep_to_its_schema(path):
    validator = pytest.importorskip("kubernetes_validate", reason="needs pip install '.[test]'")
    for part in yaml.safe_load_all(path.read_text()):
        validator.validate(part, "1.33", strict=True)
        with pytest.raises(validator.ValidationError):
            validator.validate(part | {"spec": part["spec"] | {"paralelism": 4}}, "1.33", strict=True)


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_a_mistake_ends_a_kubernetes_job_and_an_eviction_does_not_count(path):
    ignored, fails = part_of(path.name, "Job")["spec"]["podFailurePolicy"]["rules"]
    assert ignored == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    codes = {"containerName": container_of(path.name)["name"], "operator": "In", "values": [2]}
    assert fails == {"action": "FailJob", "onExitCodes": codes}


def test_the_workers_of_a_kubernetes_job_find_one_another(run):
    job = part_of("kubernetes-train.yaml", "Job")
    name, spec = job["metadata"]["name"], job["spec"]
    service = part_of("kubernetes-train.yaml", "Service")
    assert service["metadata"]["name"] == spec["template"]["spec"]["subdomain"]
    assert service["spec"]["selector"] == {"job-name": name}
    (port,) = (port["port"] for port in service["spec"]["ports"])
    count = spec["completions"]
    assert spec["parallelism"] == count and container_of("kubernetes-train.yaml")["env"][0]["value"] == str(count)
    for index in range(count):
        called, configs = run_container(run, "kubernetes-train.yaml", index)
    check_cluster(configs, [f"{name}-{index}.{service['metadata']['name']}:{port}" for index in range(count)])
    assert set(called) == {
        "-m dvpvae_tf.train --strategy multiworker --dataset cifar10 --data-dir /shared/tfds --output /shared/runs"
    }


def test_the_pods_of_a_kubernetes_evaluation_take_a_shard_each(run):
    count = part_of("kubernetes-evaluate.yaml", "Job")["spec"]["completions"]
    for index in range(count):
        called, _ = run_container(run, "kubernetes-evaluate.yaml", index)
    start = "-m dvpvae_tf.evaluate --model /shared/runs/cifar10 --limit all --samples 1000 --data-dir /shared/tfds"
    end = "--output /shared/runs/cifar10/results.json"
    assert called == [f"{start} --shard {index}/{count} {end}" for index in range(count)]


@pytest.mark.parametrize("path", SLURM, ids=lambda path: path.name)
def test_the_slurm_files_are_shell_scripts_with_their_options_first(path):
    subprocess.run(["bash", "-n", path], check=True)
    lines = path.read_text().splitlines()
    commands = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH --")]
    assert lines[0] == "#!/bin/bash" and options and options[-1] < commands[0], "Slurm stops at the first command"


JOB = {"SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "gpu[01-03]", "SLURM_CPUS_PER_TASK": "16"}


def test_the_workers_of_a_slurm_job_find_one_another(run):
    for process in range(3):
        command = [FOLDER / "train.slurm", "--dataset", "folder:my photos"]
        called, configs = run(command, **JOB, SLURM_PROCID=str(process))
    check_cluster(configs, [f"gpu{number}:23456" for number in ("01", "02", "03")])
    assert called == ["-m dvpvae_tf.train --strategy multiworker --dataset folder:my photos"] * 3


@pytest.mark.parametrize(("code", "attempts", "end"), [(1, 20, 1), (137, 20, 1), (2, 1, 2)])
def test_a_slurm_job_tries_again_but_not_after_a_mistake(run, code, attempts, end):
    called, _ = run([FOLDER / "train.slurm"], code=end, ENDS_WITH=str(code), **JOB, SLURM_PROCID="0")
    assert len(called) == attempts


def test_the_jobs_of_a_slurm_array_take_a_shard_each(run):
    variables = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "8"}
    command = [FOLDER / "evaluate.slurm", "--model", "runs/mnist", "--output", "results.json"]
    run(command, **variables)
    called, _ = run(command, **variables | {"SLURM_ARRAY_TASK_COUNT": "1", "SHARDS": "8"})  # that one alone, again
    assert called == 2 * ["-m dvpvae_tf.evaluate --model runs/mnist --output results.json --shard 5/8"]


def test_the_document_names_every_file_and_no_other():
    document = FOLDER.parent / "docs" / "scaling.md"
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    assert all((document.parent / link).is_file() for link in links)
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == set(re.findall(r"`deploy/([\w.-]+)`", text))
