"""`docker/`: what can be seen without a container engine. That its commands run is seen by `test_celery`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from tests.system import compose
from tests.system.component import Component, succeeds
from tests.system.process_session import free_ports

DOCKER = compose.FILE.parent
PROJECT = DOCKER.parent


@pytest.fixture(scope="module")
def file() -> dict:
    """The file as it is written."""
    return yaml.safe_load(compose.FILE.read_text())


def test_compose_file_is_valid():
    """A misspelt key would be seen by the first user, with an engine."""
    checker = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", compose.FILE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_schema_knows_a_wrong_file(tmp_path):
    """A check that takes everything would take ours."""
    wrong = tmp_path / "compose.yaml"
    wrong.write_text("services: {a: {image: a, helthcheck: {test: [CMD, a]}}}")
    checker = Path(sys.executable).with_name("check-jsonschema")
    assert subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", wrong], capture_output=True, check=False
    ).returncode


def test_only_this_machine_is_let_in(file):
    """Whoever reaches the UI is an administrator, and Docker's published ports pass by a firewall."""
    ports = [port for service in file["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_services_name_what_exists(file):
    """A dependency on a service without a health check never becomes healthy; an unnamed volume is an error."""
    services = file["services"]
    for name, service in services.items():
        for other, condition in service.get("depends_on", {}).items():
            assert "healthcheck" in services[other] or condition["condition"] != "service_healthy", (name, other)
        named = {volume.partition(":")[0] for volume in service.get("volumes", [])} - {"../dags"}
        assert named <= set(file["volumes"]), name


def test_every_variable_is_explained():
    """A setting that nobody hears of is none."""
    text = compose.FILE.read_text()
    head = text[: text.index("\nname:")]
    used = {found["name"] for found in compose.VARIABLE.finditer(text) if found["name"]} | {"STORAGE_EMULATOR_HOST"}
    assert used == {name for name in used if re.search(rf"\b{name}\b", head)}


def test_settings_of_env_file_win():
    """A secret that cannot be changed is public."""
    given = {
        "POSTGRES_PASSWORD": "pg",
        "AIRFLOW_JWT_SECRET": "jwt",
        "AIRFLOW_API_SECRET": "api",
        "AIRFLOW_FERNET_KEY": "fernet",
    }
    service = compose.services(given, {})["scheduler"].environment
    assert service["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "postgresql+psycopg2://airflow:pg@postgres:5432/airflow"
    assert service["AIRFLOW__CELERY__RESULT_BACKEND"] == "db+postgresql+psycopg2://airflow:pg@postgres:5432/airflow"
    assert service["AIRFLOW__API_AUTH__JWT_SECRET"] == "jwt"
    assert service["AIRFLOW__API__SECRET_KEY"] == "api"
    assert service["AIRFLOW__CORE__FERNET_KEY"] == "fernet"
    assert "STORAGE_EMULATOR_HOST" not in service


def test_image_is_made_of_what_is_sent_to_it():
    """A file that the Dockerfile copies and .dockerignore holds back breaks the build, as does one that is not there."""
    instructions = re.sub(r"\\\n", " ", (DOCKER / "Dockerfile").read_text())
    copied = {word for line in re.findall(r"^COPY (.+)$", instructions, re.MULTILINE) for word in line.split()[:-1]}
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    assert copied == {line[1:] for line in ignored if line.startswith("!")}
    assert all((PROJECT / name).exists() for name in copied)
    assert re.findall(r"^USER (.+)$", instructions, re.MULTILINE) == ["airflow"]


def test_fake_model_answers(tmp_path):
    """The stack's own model must come up where its health check looks, and answer: without it the first run fails."""
    [port] = free_ports(1)
    service = compose.services({}, {"8000": str(port), "0.0.0.0": "127.0.0.1"})["llm"]
    # Python is where the tests run, as in the image; the rest of the commands is the file's.
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **service.environment}
    llm = Component("llm", service.command, tmp_path, env, lambda: succeeds(service.healthcheck, env))
    try:
        llm.start()
        asked = {"model": "fake", "messages": [{"role": "user", "content": "Why?"}]}
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=asked, trust_env=False).raise_for_status()
        assert answer.json()["choices"][0]["message"]["content"]
    finally:
        llm.stop()
