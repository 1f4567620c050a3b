"""The app behind the pages: every route is for one DAG's task instance, and authorised for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from airflow_distil.datasets.shown import plain
from airflow_distil.datasets.table import Query as RowQuery
from airflow_distil.hooks.page import LINK_KEY, PROGRESS_KEY
from airflow_distil.plugins import comparison, views
from airflow_distil.plugins.download import FORMS
from airflow_distil.plugins.download import download as downloaded
from airflow_distil.plugins.evidence import NOTHING, Dataset, Place, Problem, believe, readable
from airflow_distil.plugins.rest import Airflow, segment

__all__ = ["app"]

STATIC = Path(__file__).parent / "static"
# Everything comes from this server, and nothing is run but its own file: row text that would slip into markup does nothing.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; font-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# A run of a thousand mapped instances is looked through in Airflow's own grid; here are those that one looks at.
MOST_INSTANCES = 100
MOST_RUNS = 50
LONGEST_PAGE = 200


class Data(JSONResponse):
    """JSON of what others wrote: in ASCII, so that half a surrogate pair is no error."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(plain(content), allow_nan=False, separators=(",", ":")).encode()


async def place_of(request: Request) -> Place:
    """Return which task instance is meant. An unmapped one's `{MAP_INDEX}` is left in addresses that Airflow makes.

    :raises HTTPException: 422 if the address names none, or two.
    """
    names = {name: request.query_params.getlist(name) for name in ("dag_id", "run_id", "task_id", "map_index")}
    given = {name: values[0] for name, values in names.items() if len(values) == 1}
    if any(len(values) > 1 for values in names.values()) or not all(given.get(name) for name in ("dag_id", "run_id")):
        raise HTTPException(422, "The address names no task instance: dag_id, run_id, task_id, map_index.")
    try:
        map_index = int(given.get("map_index", -1))
    except ValueError:
        map_index = -1
    # For Airflow's API a tilde is a wildcard: all DAGs, all runs.
    if "~" in (given["dag_id"], given["run_id"], given.get("task_id")):
        raise HTTPException(422, "A task instance is one, not all.")
    return Place(given["dag_id"], given["run_id"], given.get("task_id", ""), max(map_index, -1))


PlaceOf = Annotated[Place, Depends(place_of)]
AirflowOf = Annotated[Airflow, Depends(Airflow)]


async def dataset_of(place: PlaceOf, airflow: AirflowOf) -> Dataset:
    """Return the dataset of the task instance.

    :raises Problem: if there is none to show.
    """
    return await _dataset(airflow, place)


DatasetOf = Annotated[Dataset, Depends(dataset_of)]


async def other_of(place: PlaceOf, airflow: AirflowOf, other_run_id: str) -> Dataset:
    """Return the dataset of the same task in another run."""
    if other_run_id == "~":
        raise HTTPException(422, "A task instance is one, not all.")
    return await _dataset(airflow, place._replace(run_id=other_run_id))


OtherOf = Annotated[Dataset, Depends(other_of)]


def query_of(
    status: Annotated[list[str] | None, Query()] = None,
    text: Annotated[str, Query(max_length=1000)] = "",
    sort: str | None = None,
    *,
    descending: bool = False,
) -> RowQuery:
    """Return which rows are asked for."""
    return RowQuery(frozenset(status or ()), text, sort, descending)


QueryOf = Annotated[RowQuery, Depends(query_of)]
Offset = Annotated[int, Query(ge=0, lt=2**53)]
Limit = Annotated[int, Query(ge=1, le=LONGEST_PAGE)]

router = APIRouter(dependencies=[Depends(requires_access_dag(method="GET", access_entity=DagAccessEntity.TASK_INSTANCE))])


@router.get("/page")
async def page(place: PlaceOf) -> Response:
    """Return the page of a task instance, or of a run if the address names no task; its data come from the other routes."""
    del place
    return _page(200)


@router.get("/instance")
async def instance(place: PlaceOf, airflow: AirflowOf) -> Response:
    """Return where a task instance stands, and what it published."""
    known = await airflow.find(_instance_path(place))
    if known is None:
        raise Problem("unknown", "There is no such task instance.", "It may have been deleted, or the address is wrong.")
    progress = await _xcom(airflow, place, PROGRESS_KEY)
    dataset: dict[str, Any] | None = None
    problem: Problem | None = None
    try:
        dataset = await run_in_threadpool(views.dataset, await _dataset(airflow, place), place)
    except Problem as error:
        problem = error
    return Data(
        {
            "place": place._asdict(),
            "instance": views.instance(known),
            "progress": progress if isinstance(progress, dict) else None,
            "dataset": dataset,
            "problem": None if problem is None else problem.told,
            "neighbours": await _neighbours(airflow, place),
        }
    )


@router.get("/failure")
async def failure(place: PlaceOf, airflow: AirflowOf) -> Response:
    """Return what the last try failed with, from its log: there it may quote rows, in an XCom it may not."""
    known = await airflow.find(_instance_path(place)) or {}
    path = f"{_instance_path(place._replace(map_index=-1))}/logs/{known.get('try_number', 1)}"
    told = await airflow.find(path, full_content=True, map_index=place.map_index) or {}
    return Data({"error": views.failure(told.get("content"))})


@router.get("/run")
async def run(place: PlaceOf, airflow: AirflowOf) -> Response:
    """Return the task instances of a run that are ours, with where they stand."""
    path = f"dags/{segment(place.dag_id)}/dagRuns/{segment(place.run_id)}/taskInstances"
    # Each pushes the address of its page when it begins.
    found = await airflow.find(f"{path}/~/xcomEntries", xcom_key=LINK_KEY, limit=MOST_INSTANCES) or {}
    places = [place._replace(task_id=each["task_id"], map_index=each["map_index"]) for each in found.get("xcom_entries", ())]
    lines = await asyncio.gather(*(_line(airflow, one) for one in places))
    more = max(0, found.get("total_entries", 0) - len(places))
    return Data({"place": place._asdict(), "instances": [line for line in lines if line], "more": more})


@router.get("/runs")
async def runs(place: PlaceOf, airflow: AirflowOf) -> Response:
    """Return the latest runs of the DAG, to compare with."""
    path = f"dags/{segment(place.dag_id)}/dagRuns"
    found = await airflow.find(path, limit=MOST_RUNS, order_by="-run_after") or {"dag_runs": []}
    return Data({"runs": [{name: each.get(name) for name in views.RUN} for each in found["dag_runs"]]})


@router.get("/rows")
def rows(  # noqa: PLR0917 - FastAPI passes them by name
    place: PlaceOf,
    dataset: DatasetOf,
    query: QueryOf,
    column: Annotated[list[str] | None, Query()] = None,
    offset: Offset = 0,
    limit: Limit = 100,
) -> Response:
    """Return a page of rows, each cell short."""
    with readable(place):
        return Data(views.rows(dataset, query, column or [], offset, limit))


@router.get("/locate")
def locate(place: PlaceOf, dataset: DatasetOf, query: QueryOf, ordinal: Offset) -> Response:
    """Return at which place of a query the row with an ordinal is."""
    with readable(place):
        return Data(views.locate(dataset, query, ordinal))


@router.get("/row")
def row(place: PlaceOf, dataset: DatasetOf, position: Offset) -> Response:
    """Return one row, whole."""
    with readable(place):
        return Data(views.row(dataset, position))


@router.get("/distributions")
def distributions(place: PlaceOf, dataset: DatasetOf) -> Response:
    """Return the histograms of a dataset."""
    with readable(place):
        return Data({"series": views.distributions(dataset)})


@router.get("/compare")
def compare(
    place: PlaceOf,
    dataset: DatasetOf,
    other: OtherOf,
    offset: Offset = 0,
    limit: Limit = 50,
    *,
    only_different: bool = False,
) -> Response:
    """Return rows of two runs side by side."""
    with readable(place):
        return Data(comparison.compare(dataset, other, offset, limit, only_different=only_different))


@router.get("/differences")
def differences(place: PlaceOf, dataset: DatasetOf, other: OtherOf) -> Response:
    """Return the histograms of two runs, on the same scales."""
    with readable(place):
        return Data({"series": comparison.differences(dataset, other)})


@router.get("/attempts")
async def attempts(place: PlaceOf, airflow: AirflowOf) -> Response:
    """Return what each attempt did and paid, also where nothing is published."""
    summary, progress = await _xcom(airflow, place, "return_value"), await _xcom(airflow, place, PROGRESS_KEY)
    tries = await airflow.find(f"{_instance_path(place)}/tries") or {"task_instances": []}
    return Data(await run_in_threadpool(views.attempts, place, summary, progress, tries["task_instances"]))


@router.get("/download")
def download(place: PlaceOf, dataset: DatasetOf, query: QueryOf, form: str = "parquet") -> Response:
    """Return the rows of a query as a file: `parquet` or `jsonl`."""
    if form not in FORMS:
        raise HTTPException(422, "form is parquet or jsonl.")
    with readable(place):
        content = downloaded(dataset.table, query, form)
    name = "".join(
        letter if (letter.isascii() and letter.isalnum()) or letter in "-_" else "_"
        for letter in f"{place.dag_id}-{place.task_id}"
    )
    headers = {"Content-Disposition": f'attachment; filename="{name[:100]}.{form}"', "Cache-Control": "no-store"}
    return StreamingResponse(content, media_type=FORMS[form], headers=headers)


app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
app.include_router(router)
app.mount("/assets", StaticFiles(directory=STATIC), name="assets")


@app.middleware("http")
async def protect(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Add the headers that keep a page from doing more than it should."""
    response = await call_next(request)
    for name, value in HEADERS.items():
        response.headers[name] = value
    response.headers.setdefault("Cache-Control", "no-cache" if "/assets/" in request.url.path else "no-store")
    return response


@app.exception_handler(Problem)
async def tell(request: Request, problem: Problem) -> Response:
    """Say why there is nothing to show."""
    del request
    return Data({"problem": problem.told}, status_code=409)


@app.exception_handler(HTTPException)
async def refuse(request: Request, error: HTTPException) -> Response:
    """Refuse: a page with the page that says so, data with JSON."""
    if request.url.path.endswith("/page"):
        return _page(error.status_code)
    return Data({"detail": error.detail}, status_code=error.status_code)


def _page(status: int) -> Response:
    return HTMLResponse((STATIC / "page.html").read_text(), status)


def _instance_path(place: Place) -> str:
    path = f"dags/{segment(place.dag_id)}/dagRuns/{segment(place.run_id)}/taskInstances/{segment(place.task_id)}"
    return f"{path}/{place.map_index}" if place.map_index >= 0 else path


async def _xcom(airflow: Airflow, place: Place, key: str) -> Any:
    path = _instance_path(place._replace(map_index=-1))
    entry = await airflow.find(f"{path}/xcomEntries/{segment(key)}", map_index=place.map_index)
    return None if entry is None else entry["value"]


async def _line(airflow: Airflow, place: Place) -> dict[str, Any] | None:
    known = await airflow.find(_instance_path(place))
    if known is None:
        return None
    return views.line(known, await _xcom(airflow, place, "return_value"), await _xcom(airflow, place, PROGRESS_KEY))


async def _neighbours(airflow: Airflow, place: Place) -> dict[str, list[dict[str, Any]]]:
    """Return the tasks before and after one, and which of them have a page in this run."""
    tasks = await airflow.find(f"dags/{segment(place.dag_id)}/tasks") or {"tasks": []}
    near = views.neighbours(tasks["tasks"], place.task_id)
    for task in (*near["upstream"], *near["downstream"]):
        path = _instance_path(place._replace(task_id=task["task_id"], map_index=-1))
        found = await airflow.find(f"{path}/xcomEntries", xcom_key=LINK_KEY, limit=1) or {}
        task["linked"] = bool(found.get("total_entries"))
    return near


async def _dataset(airflow: Airflow, place: Place) -> Dataset:
    if not place.task_id:
        raise Problem(*NOTHING)
    return await run_in_threadpool(believe, await _xcom(airflow, place, "return_value"), place)
