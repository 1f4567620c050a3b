"""The pages of the UI: a real Chromium looks at a real Airflow, which is served under a path and asks for a login."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from airflow_distil import open_dataset
from airflow_distil.plugins.pages import router
from airflow_distil.testing import FakeLLM, Fault, sensible
from tests.contracts.stores.backends import BUCKET, gcs_emulator
from tests.system.airflow_standalone import Standalone
from tests.system.browser import WIDE, Theme, chromium_browser, visit

PROJECT = Path(__file__).parents[2]
SCREENSHOTS = PROJECT / ".screenshots"
DAGS = Path(__file__).with_name("dags") / "pages.py"
PASSAGES = PROJECT / "dags" / "data" / "passages.jsonl"
FORMS = (
    "Explain {} to a ten-year-old.",
    "What do most people get wrong about {}?",
    "Which three facts about {} should everybody know?",
    "Why should anybody care about {}?",
)
# What the model says for these is not what the judge can read, and the judge's endpoint refuses the others.
UNREADABLE, FILTERED = "powdered milk", "radio wave"
FILTER = {"error": {"message": "This prompt was filtered", "code": "content_filter"}}
LONG = "very long " * 1_000_000
HOSTILE = [
    "<script>document.title = 'hacked'; alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "javascript:alert(3)",
    "\u202eright to left \u05e9\u05dc\u05d5\u05dd",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308",
    "a NUL \0 and \x1b[31m an escape",
    "</pre></script><b>bold</b><a href='javascript:alert(4)'>here</a>",
    "{{ 7 * 7 }} ${7 * 7} %s",
    "MAKE IT LONG",
]


@dataclass
class Scene:
    """A running Airflow, and what has run in it."""

    airflow: Standalone
    browser: Browser
    folder: Path
    slow: FakeLLM
    runs: dict[str, str]
    earlier: str

    def url(
        self, dag: str, task: str = "", *, map_index: int = -1, run: str | None = None, route: str = "page", tab: str = ""
    ) -> str:
        """Return an address of the plugin."""
        query = {
            "dag_id": dag,
            "run_id": run or self.runs[dag],
            "map_index": str(map_index),
            **({"task_id": task} if task else {}),
        }
        return f"{self.airflow.url}/distil/{route}?{httpx.QueryParams(query)}{f'#tab={tab}' if tab else ''}"


def write_questions(path: Path, count: int = 120) -> Path:
    """Write rows about the topics of the demo's passages."""
    titles = [json.loads(line)["title"] for line in PASSAGES.read_text().splitlines()]
    rows = [{"instruction": form.format(title.lower()), "topic": title} for form in FORMS for title in titles]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:count]))
    return path


def judge(messages: list[dict[str, Any]], body: Mapping[str, Any]) -> Any:
    """Rate in the form that is asked for, and the first text a bit too well: that is to be seen."""
    if UNREADABLE in str(messages):
        return "I would rather not rate these."
    said = str(sensible(messages, body))
    return said.replace("Rating: 1", "Rating: 4", 1).replace("Rating: 2", "Rating: 5", 1)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Several runs of seven tasks, over; the slow one is for a test to start."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "dags").mkdir()
    shutil.copy(DAGS, folder / "dags")
    questions = write_questions(folder / "questions.jsonl")
    hostile = folder / "hostile.jsonl"
    hostile.write_text("".join(json.dumps({"instruction": text, "document": text}) + "\n" for text in HOSTILE[:-1]))
    with hostile.open("a") as file:
        file.write(json.dumps({"instruction": HOSTILE[-1], "document": LONG}) + "\n")
    chance = random.Random(7)

    def write(messages: list[dict[str, Any]], body: Mapping[str, Any]) -> str:
        sentences = str(sensible(messages, body)).split(". ")
        return ". ".join(sentences[: chance.randint(1, 5)])

    def echo(messages: list[dict[str, Any]]) -> str:
        asked: str = messages[-1]["content"]
        return LONG if asked == HOSTILE[-1] else asked

    def latency(draw: random.Random) -> float:
        return min(1.0, draw.lognormvariate(-3, 0.8))

    def connection(llm: FakeLLM, model: str) -> dict[str, Any]:
        prices = {"input_price": 0.15, "output_price": 0.6}
        return {"conn_type": "distil_llm", "host": llm.base_url, "password": "sk-secret", "extra": {"model": model, **prices}}

    filtered = Fault(status=400, body=FILTER, times=None, when=lambda messages: FILTERED in str(messages))
    with (
        FakeLLM(answer=write, latency=latency) as writer,
        FakeLLM(answer=judge, latency=latency, faults=[filtered]) as judging,
        FakeLLM(answer=sensible, latency=lambda draw: draw.uniform(0.2, 0.6), faults=[filtered]) as slow,
        FakeLLM(answer=echo) as echoing,
        FakeLLM(faults=[Fault(status=400, body=FILTER, times=None)]) as broken,
        gcs_emulator() as gcs,
        Standalone(
            folder / "home",
            folder / "dags",
            path="/air",
            users={"ann": "admin", "vic": "viewer", "eve": ""},
            connections={
                "writer": connection(writer, "writer-large"),
                "judge": connection(judging, "judge-xl"),
                "slow": connection(slow, "writer-large"),
                "echo": connection(echoing, "echo"),
                "broken": connection(broken, "writer-large"),
            },
            env={
                "AIRFLOW__DISTIL__DATASET_ROOT": str(folder / "datasets"),
                "AIRFLOW__DISTIL__UI_ROOTS": f"{folder / 'datasets'}, gs://{BUCKET}/pages",
                "STORAGE_EMULATOR_HOST": gcs,
            },
        ) as airflow,
        chromium_browser() as browser,
    ):
        conf = {"questions": str(questions), "elsewhere": str(folder / "elsewhere"), "bucket": f"gs://{BUCKET}/pages/lakes"}
        earlier = airflow.trigger("reviews", conf)
        runs = {dag: airflow.trigger(dag, conf) for dag in ("reviews", "topics", "refusals", "bucket", "patient")}
        runs["hostile"] = airflow.trigger("hostile", {"questions": str(hostile)})
        assert airflow.wait("reviews", earlier, 180) == "success"
        states = {dag: airflow.wait(dag, run, 180) for dag, run in runs.items() if dag != "patient"}
        assert states == dict.fromkeys(states, "success") | {"refusals": "failed"}
        waiting = f"dags/patient/dagRuns/{runs['patient']}/taskInstances/again"
        airflow.until(lambda: airflow.get(waiting)["state"] == "up_for_retry", 90, "nothing waits for its retry")
        spoil(airflow, runs["topics"], folder / "datasets")
        yield Scene(airflow, browser, folder, slow, runs, earlier)


def spoil(airflow: Standalone, run: str, datasets: Path) -> None:
    """Delete the dataset of one mapped instance, and let another's XCom lead to the third's."""
    (gone,) = datasets.glob("topics/by_topic/*/map-00001")
    shutil.rmtree(gone)
    summaries = [airflow.xcom("topics", run, "by_topic", map_index=index) for index in range(3)]
    forged = {**summaries[0], "uri": summaries[0]["uri"].replace("topics/by_topic", "reviews/ratings")}
    path = f"dags/topics/dagRuns/{run}/taskInstances/by_topic/xcomEntries/return_value"
    airflow.patch(path, {"value": forged, "map_index": 2})


def shot(page: Page, name: str, theme: str = "light") -> None:
    """Write a screenshot, for people."""
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}-{theme}.png")


def settled(page: Page) -> None:
    """Wait until a page shows what it was opened for."""
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.locator(".waiting")).to_have_count(0)


def rows_of(scene: Scene, dag: str, task: str) -> list[dict[str, Any]]:
    """Return what was published, read without the pages."""
    return open_dataset(scene.airflow.xcom(dag, scene.runs[dag], task)).to_table().to_pylist()


def test_a_running_task_is_watched_from_its_first_seconds(scene: Scene):
    """Airflow stores links when a task has ended: the page of a running one could not be found; or it had to be reloaded."""
    airflow = scene.airflow
    scene.slow.hold()
    run = airflow.trigger("slow", {"questions": str(scene.folder / "questions.jsonl")})
    scene.runs["slow"] = run
    path = f"dags/slow/dagRuns/{run}/taskInstances/watched"
    link = airflow.until(lambda: airflow.get(f"{path}/links")["extra_links"]["Dataset"], 90, "there is no link")
    assert airflow.get(path)["state"] == "running"
    scene.slow.release(60)
    with visit(scene.browser, airflow, "vic") as page:
        page.goto(link)
        page.evaluate("window.loadedOnce = true")
        bar = page.get_by_role("progressbar", name="Rows")
        expect(bar).to_be_visible()
        # The task tells where it stands every ten seconds.
        expect(bar).to_have_attribute("aria-valuenow", "60", timeout=45_000)
        scene.slow.release(40)
        expect(bar).to_have_attribute("aria-valuenow", "100", timeout=45_000)
        expect(page.get_by_text("status 400")).to_be_visible()
        expect(page.get_by_text("In flight", exact=True)).to_be_visible()
        expect(page.get_by_text("of $5.00")).to_be_visible()
        expect(page.get_by_text("rows/s").first).to_be_visible()
        expect(page.locator("path.area").nth(3)).to_be_attached()
        shot(page, "live")
        page.evaluate("localStorage.setItem('theme', 'dark'); dispatchEvent(new StorageEvent('storage', {key: 'theme'}))")
        shot(page, "live", "dark")
        scene.slow.release()
        expect(page.get_by_role("tab", name="Rows")).to_be_visible(timeout=120_000)
        assert page.evaluate("window.loadedOnce")
        page.get_by_role("tab", name="Rows").click()
        expect(page.get_by_role("row")).not_to_have_count(1)


def test_rows_are_found(scene: Scene):
    """A filter, a search, an order or a jump that showed other rows than those that are so."""
    published = rows_of(scene, "reviews", "ratings")
    with visit(scene.browser, scene.airflow, "vic") as page:
        page.goto(scene.url("reviews", "ratings"))
        found = page.locator(".found")
        expect(found).to_have_text(f"{len(published)} rows")
        shown = page.locator(".row")
        expect(shown.first).to_contain_text(published[0]["instruction"])
        shot(page, "rows")
        unparsed = [row for row in published if row["distil_status"] == "unparsed"]
        page.get_by_role("button", name="unparsed").click()
        expect(found).to_have_text(f"{len(unparsed)} rows of {len(published)}")
        expect(shown).to_have_count(len(unparsed))
        page.get_by_role("searchbox").fill("WHICH THREE")
        few = [row for row in unparsed if "Which three" in row["instruction"]]
        expect(shown).to_have_count(len(few))
        expect(shown.first).to_contain_text(few[0]["instruction"])
        page.get_by_role("searchbox").fill("no such thing anywhere")
        expect(page.get_by_text("No row is like that.")).to_be_visible()
        page.get_by_role("button", name="Show all rows").click()
        expect(found).to_have_text(f"{len(published)} rows")

        page.get_by_role("button", name="row", exact=True).click()  # from the last
        expect(shown.first).to_contain_text(published[0]["instruction"])
        page.get_by_role("button", name="row", exact=True).click()
        expect(shown.first).to_contain_text(published[-1]["instruction"])
        page.get_by_role("button", name="row", exact=True).click()
        page.get_by_label("Go to row").fill("77")
        page.keyboard.press("Enter")
        expect(page.locator(".row[data-active]")).to_contain_text(published[77]["instruction"])


def test_a_row_is_read_whole(scene: Scene):
    """A row's answer, its error, or what was sent for it could only be seen with other tools."""
    published = rows_of(scene, "reviews", "answers")
    with visit(scene.browser, scene.airflow, "vic") as page:
        page.goto(scene.url("reviews", "answers"))
        page.get_by_role("grid").focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        drawer = page.get_by_role("complementary")
        expect(drawer.get_by_text(published[1]["instruction"], exact=True).first).to_be_visible()
        for answer in published[1]["answers"]:
            expect(drawer.get_by_text(answer, exact=True).first).to_be_visible()
        drawer.get_by_text("The prompt that was sent").first.click()
        drawer.get_by_role("button", name="Copy as JSON").click()
        expect(drawer.get_by_role("button", name="Copied")).to_be_visible()
        copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
        assert copied["answers"] == published[1]["answers"]
        assert copied["distil_row"] == 1
        shot(page, "row")
        page.keyboard.press("Escape")
        expect(drawer).to_have_count(0)

        page.goto(scene.url("reviews", "ratings"))
        page.get_by_role("button", name="failed").click()
        expect(page.locator(".found")).to_contain_text(" of ")
        page.locator(".row").first.click()
        expect(drawer.get_by_text("This prompt was filtered").first).to_be_visible()
        expect(drawer.get_by_text("add_raw_input=True")).to_be_visible()


def test_rows_are_downloaded(scene: Scene):
    """A file that held other rows than the dataset, or than those that were shown."""
    published = rows_of(scene, "reviews", "ratings")
    with visit(scene.browser, scene.airflow, "vic") as page:
        page.goto(scene.url("reviews", "ratings"))
        page.get_by_role("button", name="failed").click()
        expect(page.locator(".found")).to_contain_text("of")
        page.get_by_text("Download").click()
        with page.expect_download() as all_rows:
            page.get_by_role("link", name="Parquet").last.click()
        assert pq.read_table(all_rows.value.path()).to_pylist() == published
        with page.expect_download() as some:
            page.get_by_role("link", name="JSONL").first.click()
        lines = [json.loads(line) for line in Path(some.value.path()).read_text().splitlines()]
        assert lines == [row for row in published if row["distil_status"] == "failed"]


def test_distributions_show_a_biased_judge(scene: Scene):
    """A judge that likes the first answer best looks fine in a mean over all."""
    published = rows_of(scene, "reviews", "ratings")
    means = [
        sum(values) / len(values)
        for values in zip(*(row["ratings"] for row in published if row["distil_status"] == "ok"), strict=True)
    ]
    assert means[0] > means[1] + 0.2
    with visit(scene.browser, scene.airflow, "vic") as page:
        page.goto(scene.url("reviews", "ratings", tab="charts"))
        lines = page.locator(".parts tbody tr")
        expect(lines).to_have_count(3)
        for position, mean in enumerate(means):
            expect(lines.nth(position)).to_contain_text(f"{mean:.2f}".rstrip("0").rstrip("."))
        expect(page.get_by_role("heading", name="Latency of requests, seconds")).to_be_visible()
        shot(page, "distributions")


def test_two_runs_are_compared(scene: Scene):
    """Last night's answers and tonight's were matched by place, or the same ones called different."""
    ours = rows_of(scene, "reviews", "answers")
    theirs = open_dataset(scene.airflow.xcom("reviews", scene.earlier, "answers")).to_table().to_pylist()
    different = sum(a["answers"] != b["answers"] for a, b in zip(ours, theirs, strict=True))
    with visit(scene.browser, scene.airflow, "vic") as page:
        page.goto(scene.url("reviews", "answers", tab="compare"))
        expect(page.get_by_text(f"{different} with another answer")).to_be_visible()
        expect(page.locator(".pair")).to_have_count(min(20, different))
        expect(page.get_by_role("heading", name="answers: length in characters")).to_be_visible()
        shot(page, "compare")


def test_attempts_and_details_say_where_it_comes_from(scene: Scene):
    """What was paid, by whom, for what, and what it was made from could not be found."""
    with visit(scene.browser, scene.airflow, "vic") as page:
        page.goto(scene.url("reviews", "ratings", tab="attempts"))
        summary = scene.airflow.xcom("reviews", scene.runs["reviews"], "ratings")
        table = page.get_by_role("region", name="Attempts")
        expect(table.get_by_role("cell", name="edition 1")).to_be_visible()
        paid = page.request.get(scene.url("reviews", "ratings", route="attempts")).json()["attempts"]
        assert [(each["input_tokens"], each["output_tokens"]) for each in paid] == [
            (summary["input_tokens"], summary["output_tokens"])
        ]
        shot(page, "attempts")
        page.get_by_role("tab", name="Details").click()
        expect(page.get_by_text(summary["uri"])).to_be_visible()
        shot(page, "details")
        page.get_by_role("link", name="answers", exact=True).click()
        expect(page.get_by_role("heading", name="answers", exact=True)).to_be_visible()
        # Nothing is published, and still the attempt is told of.
        page.goto(scene.url("refusals", "refused", tab="attempts"))
        expect(table.get_by_text("nothing")).to_be_visible()


@pytest.mark.parametrize(
    ("kind", "dag", "task", "map_index", "words"),
    [
        ("empty", "reviews", "none_of_them", -1, "has no rows"),
        ("failed", "refusals", "refused", -1, "more than max_failure_ratio"),
        ("outside", "topics", "elsewhere", -1, "ui_roots"),
        ("gone", "topics", "by_topic", 1, "was deleted or has expired"),
        ("foreign", "topics", "by_topic", 2, "did not publish"),
        ("unknown", "topics", "no_such_task", -1, "no such task instance"),
        ("waiting", "patient", "after", -1, "has not begun yet"),
        ("retry", "patient", "again", -1, "will start another"),
    ],
)
def test_each_state_says_what_to_do(scene: Scene, kind: str, dag: str, task: str, map_index: int, words: str):
    """An empty page, a spinner without end, or a number of an HTTP status."""
    with visit(scene.browser, scene.airflow, "vic") as page:
        page.goto(scene.url(dag, task, map_index=map_index))
        notice = page.locator(f".notice[data-kind={kind}]")
        expect(notice).to_be_visible()
        expect(notice).to_contain_text(words)
        shot(page, f"state-{kind}")


def test_a_dataset_in_a_bucket(scene: Scene):
    """The API server could read local files only, or a bucket with the worker's credentials only."""
    with visit(scene.browser, scene.airflow, "vic") as page:
        page.goto(scene.url("bucket", "in_gs"))
        expect(page.locator(".row")).to_have_count(2)
        expect(page.locator(".row").first).to_contain_text("Name a lake.")
        page.get_by_role("tab", name="Attempts").click()
        expect(page.get_by_role("cell", name="edition 1")).to_be_visible()


def test_a_mapped_instance_has_a_page_of_its_own(scene: Scene):
    """All instances of a mapped task showed the first one's rows."""
    with visit(scene.browser, scene.airflow, "vic") as page:
        page.goto(scene.url("topics", "by_topic", map_index=0))
        expect(page.locator(".row").first).to_contain_text("Name a bird.")
        # As Airflow leaves the address of an unmapped one.
        page.goto(scene.url("reviews", "answers").replace("map_index=-1", "map_index={MAP_INDEX}"))
        expect(page.locator(".row").first).to_be_visible()


def test_nobody_sees_what_is_not_for_them(scene: Scene):
    """A route without a guard gives away the rows of every task."""
    paths = sorted(route.path for route in router.routes)  # type: ignore[attr-defined]
    assert len(paths) > 10
    eve = {"Authorization": f"Bearer {scene.airflow.token('eve')}"}
    vic = {"Authorization": f"Bearer {scene.airflow.token('vic')}"}
    extra = {"position": "0", "ordinal": "0", "other_run_id": scene.earlier}
    for path in paths:
        address = f"{scene.url('reviews', 'ratings', route=path[1:])}&{httpx.QueryParams(extra)}"
        assert httpx.get(address, headers=eve).status_code == 403, path
        assert httpx.get(address).status_code == 401, path
        allowed = httpx.get(address, headers=vic, timeout=60)
        assert allowed.status_code == 200, (path, allowed.text)
        assert "default-src 'none'" in allowed.headers["content-security-policy"]
        assert allowed.headers["x-content-type-options"] == "nosniff"
        assert "sk-secret" not in allowed.text
        # Two names, of which one is checked and the other used; and Airflow's wildcard.
        assert httpx.get(f"{address}&dag_id=topics", headers=vic).status_code == 422, path
        assert httpx.get(address.replace("dag_id=reviews", "dag_id=~"), headers=vic).status_code in {403, 422}, path
    with visit(scene.browser, scene.airflow, "eve") as page:
        assert page.goto(scene.url("reviews", "ratings")).status == 403  # type: ignore[union-attr]
        expect(page.get_by_text("You may not see this.")).to_be_visible()
        shot(page, "state-forbidden")
    with visit(scene.browser, scene.airflow, None) as page:
        page.goto(scene.url("reviews", "ratings"))
        expect(page.get_by_role("link", name="Log in")).to_be_visible()


def test_hostile_rows_are_only_text(scene: Scene):
    """Text of a row became a script, a picture, a link, or turned the page around."""
    published = rows_of(scene, "hostile", "echo")
    assert [len(row["generation"]) for row in published][-1] == len(LONG)
    with visit(scene.browser, scene.airflow, "vic") as page:
        page.goto(scene.url("hostile", "echo"))
        expect(page.locator(".row")).to_have_count(len(HOSTILE))
        for number, text in enumerate(HOSTILE):
            page.locator(".row").nth(number).click()
            drawer = page.get_by_role("complementary")
            expect(drawer.get_by_role("heading", name=f"Row {number}")).to_be_visible()
            if text is not HOSTILE[-1]:
                shown = drawer.locator("pre.text").first
                # What a browser cannot show of a text it replaces by itself.
                expect(shown).to_have_js_property("textContent", text)
        expect(drawer.get_by_text("more characters").first).to_be_visible()
        shot(page, "hostile")
        assert page.locator("#page").locator("script, img, iframe, object, b, a[href^=javascript]").count() == 0
        assert page.title() == "echo – Dataset"
        page.get_by_role("searchbox").fill("<img")
        expect(page.locator(".row")).to_have_count(1)
        page.goto(scene.url("hostile", "echo", tab="charts"))
        expect(page.get_by_role("heading", name="generation: length in characters")).to_be_visible()


VIEWS = ["rows", "run", "charts", "compare", "attempts", "details"]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_serious_for_axe(scene: Scene, theme: Theme):
    """Words too pale to read, controls without a name, tables that a screen reader cannot walk."""
    axe, problems = Axe(), []
    with visit(scene.browser, scene.airflow, "vic", theme) as page:
        places = [(view, scene.url("reviews", "ratings", tab=view)) for view in VIEWS]
        places += [("failed", scene.url("refusals", "refused")), ("list", scene.url("topics"))]
        for name, address in places:
            page.goto(address)
            settled(page)
            if name == "rows":
                page.locator(".row").nth(2).click()
                expect(page.locator(".request").first).to_be_visible()
            assert page.evaluate("document.documentElement.dataset.theme") == theme
            shot(page, name, theme)
            found = axe.run(page).response["violations"]
            problems += [
                f"{name}: {each['id']}: {node['html'][:120]} {node['failureSummary']}"
                for each in found
                if each["impact"] in {"serious", "critical"}
                for node in each["nodes"][:3]
            ]
    assert not problems, "\n".join(problems)


def test_a_narrow_screen_is_enough(scene: Scene):
    """On a phone, at three in the morning, half of it was beyond the edge."""
    with visit(scene.browser, scene.airflow, "vic", size=(390, 800)) as page:
        for view in VIEWS:
            page.goto(scene.url("reviews", "ratings", tab=view))
            settled(page)
            if view == "rows":
                expect(page.locator(".found")).to_have_text("120 rows")
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, view
            shot(page, f"narrow-{view}")


def test_it_is_a_part_of_airflow(scene: Scene):
    """In the frame that Airflow shows the list of a run in, a link led nowhere, or Airflow into its own frame."""
    with visit(scene.browser, scene.airflow, "vic", "dark", WIDE) as page:
        page.goto(f"{scene.airflow.run_url('reviews', scene.runs['reviews'])}/plugin/datasets")
        frame = page.frame_locator("iframe")
        expect(frame.get_by_role("link", name="ratings")).to_be_visible()
        shot(page, "run-in-airflow", "dark")
        frame.get_by_role("link", name="ratings").click()
        expect(frame.locator(".row").first).to_be_visible()
        frame.get_by_role("link", name="Log", exact=True).click()
        page.wait_for_url("**/tasks/ratings*")
        assert "/air/dags/reviews/" in page.url
        expect(page.locator("iframe")).to_have_count(0)


def test_airflow_has_a_button_that_leads_here(scene: Scene):
    """The link was in the API, and nowhere on the screen."""
    with visit(scene.browser, scene.airflow, "vic") as page:
        page.goto(f"{scene.airflow.run_url('reviews', scene.runs['reviews'])}/tasks/ratings/details")
        button = page.get_by_role("link", name="Dataset", exact=True)
        expect(button).to_be_visible()
        shot(page, "link-in-airflow")
        page.goto(str(button.get_attribute("href")))  # Airflow 3.2 opens it in another tab, 3.3 in this one
        expect(page.locator(".row").first).to_be_visible()


def test_summary_names_the_page(scene: Scene):
    """Who gets a summary, from an asset event or by mail, could not get to the page."""
    summary = scene.airflow.xcom("topics", scene.runs["topics"], "by_topic", map_index=0)
    with visit(scene.browser, scene.airflow, "vic") as page:
        page.goto(summary["page"])
        expect(page.locator(".row").first).to_contain_text("Name a bird.")


def test_downloaded_parquet_is_parquet(scene: Scene):
    """A stream that broke off looked like a file."""
    vic = {"Authorization": f"Bearer {scene.airflow.token('vic')}"}
    address = f"{scene.url('hostile', 'echo', route='download')}&form=parquet"
    reply = httpx.get(address, headers=vic, timeout=60)
    assert pq.read_table(io.BytesIO(reply.content)).to_pylist() == rows_of(scene, "hostile", "echo")
