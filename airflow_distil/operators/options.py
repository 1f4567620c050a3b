"""What every operator takes beside its task's own fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict

__all__ = ["AirflowOptions", "DistilOptions"]


class AirflowOptions(TypedDict, total=False):
    """The common arguments of Airflow's `BaseOperator`, so that an editor knows them; see there."""

    task_id: str
    dag: Any
    default_args: dict[str, Any] | None
    depends_on_past: bool
    doc_md: str | None
    email: str | Sequence[str] | None
    executor: str | None
    executor_config: dict[str, Any] | None
    execution_timeout: timedelta | None
    inlets: Any
    map_index_template: str | None
    max_active_tis_per_dag: int | None
    max_active_tis_per_dagrun: int | None
    max_retry_delay: timedelta | float | None
    on_execute_callback: Any
    on_failure_callback: Any
    on_retry_callback: Any
    on_skipped_callback: Any
    on_success_callback: Any
    outlets: Any
    owner: str
    params: Any
    pool: str | None
    pool_slots: int
    post_execute: Callable[..., None] | None
    pre_execute: Callable[..., None] | None
    priority_weight: int
    queue: str
    render_template_as_native_obj: bool | None
    retries: int | None
    retry_delay: timedelta | float
    retry_exponential_backoff: float
    retry_policy: Any
    run_as_user: str | None
    start_date: datetime | None
    end_date: datetime | None
    task_display_name: str | None
    task_group: Any
    trigger_rule: str
    wait_for_downstream: bool
    weight_rule: Any


class DistilOptions(AirflowOptions, total=False):
    """Arguments that every operator of this package takes; documented on `DistilOperator`."""

    destination: str | None
    llm_conn_id: str
    model: str | None
    generation_kwargs: dict[str, Any] | None
    max_concurrency: int | None
    max_failure_ratio: float
    max_cost_usd: float | None
    max_total_tokens: int | None
    on_existing: Literal["reuse", "regenerate", "fail"]
    on_quota: Literal["fail", "reschedule"]
    limit: int | None
    source_columns: list[str] | None
    schema: dict[str, str] | None
    name: str
    num_generations: int
    group_generations: bool
    input_mappings: dict[str, str]
    output_mappings: dict[str, str]
    add_raw_input: bool
    add_raw_output: bool
    structured_output: Any
    max_parse_retries: int
    seed: int
