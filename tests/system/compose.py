"""`docker/compose.yaml`, read for those who run its services without containers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["FILE", "Service", "services"]

FILE = Path(__file__).parents[2] / "docker" / "compose.yaml"

# `$$`, `${NAME}` and `${NAME:-default}`: what our file uses of Compose's interpolation.
VARIABLE = re.compile(r"\$\$|\$\{(?P<name>\w+)(?::-(?P<default>[^{}]*))?\}")


@dataclass(frozen=True)
class Service:
    """A service as it runs here.

    :param command: program and arguments; empty for the image's own.
    :param environment: variables that it sets.
    :param healthcheck: program and arguments that end with 0 while the service is well; empty if it has none.
    :param ours: it runs the image that is built from this repository.
    """

    command: list[str]
    environment: dict[str, str]
    healthcheck: list[str]
    ours: bool


def services(variables: Mapping[str, str], places: Mapping[str, str]) -> dict[str, Service]:
    """Return the services by name.

    :param variables: what a user sets in `.env`.
    :param places: addresses and folders in containers to those that stand for them here.
    """
    # In one go: what has been put in place of something must not be replaced again.
    known = re.compile("|".join(re.escape(place) for place in sorted(places, key=len, reverse=True)) or r"(?!)")

    def here(text: Any) -> str:
        filled = VARIABLE.sub(
            lambda found: variables.get(found["name"], found["default"] or "") if found["name"] else "$", str(text)
        )
        return known.sub(lambda found: places[found[0]], filled)

    return {
        name: Service(
            command=[here(part) for part in service.get("command", [])],
            environment={
                key: here(variables[key] if value is None else value)
                for key, value in service.get("environment", {}).items()
                if value is not None or key in variables
            },
            healthcheck=_program([here(part) for part in service.get("healthcheck", {}).get("test", [])]),
            ours="build" in service,
        )
        for name, service in yaml.safe_load(FILE.read_text())["services"].items()
    }


def _program(test: list[str]) -> list[str]:
    match test:
        case ["CMD", *program]:
            return program
        case ["CMD-SHELL", script]:
            return ["/bin/sh", "-c", script]
        case []:
            return []
    raise ValueError(f"A health check is CMD or CMD-SHELL, not {test[0]}.")
