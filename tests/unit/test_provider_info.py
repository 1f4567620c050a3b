"""What Airflow reads of this package without importing it is true."""

from __future__ import annotations

import json
from importlib.metadata import distribution
from importlib.resources import files

import jsonschema
import pytest
from airflow._shared.module_loading import import_string
from airflow.providers_manager import ProvidersManager
from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

from airflow_distil.get_provider_info import get_provider_info
from airflow_distil.hooks.llm import LLMHook, _Settings

INFO = get_provider_info()
(CONNECTION,) = INFO["connection-types"]
NAMED = [
    *(module for family in ("operators", "hooks") for entry in INFO[family] for module in entry["python-modules"]),
    CONNECTION["hook-class-name"],
    *(decorator["class-name"] for decorator in INFO["task-decorators"]),
]


@pytest.fixture(scope="module")
def provider():
    """The package as Airflow finds it; it must be installed."""
    return ProvidersManager().providers["airflow-distil"]


def schema(name: str) -> dict:
    return json.loads(files("airflow").joinpath(name).read_text())


def test_fits_the_schema_that_airflow_checks_at_run_time():
    """Airflow drops a provider whose information does not fit, with one line in the log."""
    jsonschema.validate(INFO, schema("provider_info.schema.json"))


@pytest.mark.parametrize("part", ["connection-types", "config", "hooks", "operators"])
def test_fits_the_stricter_schema_of_provider_yaml(part):
    """The run-time schema lets misspelt form fields pass; they are then not shown."""
    whole = schema("provider.yaml.schema.json")
    jsonschema.validate(INFO[part], {**whole["properties"][part], "definitions": whole.get("definitions", {})})


@pytest.mark.parametrize("name", NAMED)
def test_all_names_can_be_imported(name):
    """A class was renamed, and Airflow found out in production."""
    if name.rpartition(".")[2][0].islower() and "decorator" not in name:
        __import__(name)
    else:
        import_string(name)


def test_is_installed_as_a_provider(provider):
    """The entry point or the distribution's name did not match, and Airflow saw no provider."""
    assert provider.data["package-name"] == distribution("airflow-distil").metadata["Name"]
    assert provider.data.items() >= INFO.items()


def test_plugin_is_an_entry_point_only():
    """Named twice, Airflow reports the second as an import error."""
    (entry,) = distribution("airflow-distil").entry_points.select(group="airflow.plugins")
    assert entry.load().name == "distil"
    assert "plugins" not in INFO


def test_the_hook_is_the_one_of_the_connection_type(provider):
    """The type's name in the list and the hook's own differed."""
    hook = ProvidersManagerTaskRuntime().hooks["distil_llm"]
    assert hook.hook_class_name == f"{LLMHook.__module__}.{LLMHook.__name__}"
    assert hook.hook_name == CONNECTION["hook-name"] == LLMHook.hook_name
    assert hook.connection_id_attribute_name == LLMHook.conn_name_attr
    assert hook.connection_type == LLMHook.conn_type


def test_the_form_has_the_fields_that_the_hook_reads(provider):
    """A field of the form was read by nobody, or one that is read could not be entered."""
    manager = ProvidersManager()
    assert not [key for key in manager.field_behaviours if key == "distil_llm" and not manager.field_behaviours[key]]
    fields = {
        widget.field_name: widget
        for name, widget in manager.connection_form_widgets.items()
        if name.startswith("extra__distil_llm__")
    }
    assert set(fields) == set(_Settings.model_fields)
    assert {name for name, widget in fields.items() if widget.is_sensitive} == {"headers"}
    assert manager.field_behaviours["distil_llm"]["relabeling"]["host"] == "Base URL"
    assert "password" not in manager.field_behaviours["distil_llm"]["hidden_fields"]


@pytest.mark.parametrize("name", CONNECTION["conn-fields"])
def test_what_the_form_lets_in_is_what_the_hook_takes(name):
    """The form took a 0 that the hook refused."""
    field = CONNECTION["conn-fields"][name]["schema"]
    for value in [*field.get("enum", []), *([field["minimum"]] if "minimum" in field else [])]:
        _Settings.model_validate({name: value})
    if "default" in field:
        assert _Settings.model_fields[name].default == field["default"]


def test_config_section(provider):
    """`[distil] dataset_root` was not a known option: no default, no entry in the reference."""
    from airflow.configuration import conf

    ProvidersManager().initialize_providers_configuration()
    assert conf.get("distil", "dataset_root", fallback="none") == "none"
    assert set(INFO["config"]["distil"]["options"]) == {"dataset_root", "scratch_dir", "ui_roots"}
