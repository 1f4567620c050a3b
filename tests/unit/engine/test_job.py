"""One attempt from rows to an edition: every row once, in order, with all its columns."""

from __future__ import annotations

import asyncio
import decimal
import random
import re
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_distil.conversation import Answer, Chat, Unparsed, Usage, user
from airflow_distil.datasets.manifest import Identity
from airflow_distil.datasets.source import open_source
from airflow_distil.datasets.stores import open_store
from airflow_distil.datasets.uri import URI
from airflow_distil.engine import Job
from airflow_distil.engine import job as job_module
from airflow_distil.engine.write import OURS
from airflow_distil.exceptions import BadRow, SourceError, TaskDefinitionError
from airflow_distil.llms.openai import OpenAILLM
from airflow_distil.tasks import ChatGeneration, Task, TextGeneration
from airflow_distil.tasks.function import Function
from airflow_distil.testing import FakeLLM, Fault
from tests.unit.engine.lab import IDENTITY, Model, ask, many, questions


def test_rows_come_out_in_order_however_the_answers_come(lab):
    """Rows written as they finish would pair instructions with other rows' answers, or lose the slow ones."""
    drawn = random.Random(1)

    async def late(prompt):
        await asyncio.sleep(drawn.uniform(0, 0.02))
        return f"re: {prompt}"

    rows = lab.run(many(150), Model(lambda prompt, _: late(prompt)))
    assert [row["distil_row"] for row in rows] == list(range(150))
    assert [row["generation"] for row in rows] == [f"re: question {number}" for number in range(150)]
    assert {row["distil_status"] for row in rows} == {"ok"}


def test_each_row_is_asked_once(lab):
    """A row that is asked in both passes is paid twice."""
    model = Model()
    lab.run(many(100), model)
    assert sorted(model.asked) == sorted(f"question {number}" for number in range(100))


def test_columns_are_source_then_task_then_model_then_ours(lab):
    """People and downstream tasks find columns by place and name; a schema that moves breaks them."""
    manifest = lab.job([{"id": 1, "instruction": "a", "tag": "x"}], Model()).run()
    assert lab.table(manifest).column_names == ["id", "instruction", "tag", "generation", "model_name", *OURS]
    assert list(manifest.columns) == lab.table(manifest).column_names


def test_all_source_columns_come_out_as_they_went_in(lab, tmp_path):
    """A round trip through Python objects changes times, decimals, bytes and nested nulls."""
    table = pa.table(
        {
            "instruction": ["a", "b", "c"],
            "when": pa.array([1_767_229_323_456_789, None, -62_135_596_800_000_000], pa.timestamp("us")),
            "price": pa.array([decimal.Decimal("1.10"), None, decimal.Decimal("-3.00")], pa.decimal128(10, 2)),
            "raw": pa.array([b"\xff\x00", None, b""]),
            "nested": pa.array([[{"a": 1, "b": None}], None, []], pa.list_(pa.struct([("a", pa.int8()), ("b", pa.string())]))),
            "word": pa.array(["x", "y", "x"]).dictionary_encode(),
            "small": pa.array([1, None, 255], pa.uint8()),
            "nan": [float("nan"), float("inf"), None],
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    source = pq.read_table(tmp_path / "in.parquet")
    task = TextGeneration(num_generations=2)
    out = lab.table(lab.job(str(tmp_path / "in.parquet"), Model(), task).run())
    for name in table.column_names:
        expected = source[name].take([0, 0, 1, 1, 2, 2]).combine_chunks()
        found = out[name].combine_chunks()
        if pa.types.is_dictionary(expected.type):
            expected = expected.dictionary_decode()
        assert found.type == expected.type
        assert str(found) == str(expected), name


@pytest.mark.parametrize("honours_n", [True, False])
class TestSamples:
    def test_ungrouped_each_sample_is_a_row(self, lab, honours_n):
        """Distilabel 1.5.3: samples came out as r0 r1 r0 r1, and restored columns went to the wrong rows."""
        model = Model(honours_n=honours_n)
        rows = lab.run(many(3), model, TextGeneration(num_generations=2))
        assert [(row["instruction"], row["distil_row"], row["distil_sample"]) for row in rows] == [
            (f"question {row}", row, sample) for row in range(3) for sample in range(2)
        ]
        for row in range(3):
            texts = {found["generation"] for found in rows if found["distil_row"] == row}
            assert texts == {f"question {row}!", f"question {row}!1"}

    def test_grouped_each_row_has_a_list(self, lab, honours_n):
        """A list in the order of samples, and one model name."""
        rows = lab.run(many(2), Model(honours_n=honours_n), TextGeneration(num_generations=3, group_generations=True))
        assert [len(row["generation"]) for row in rows] == [3, 3]
        assert [sorted(row["generation"]) for row in rows] == [
            [f"question {n}!", f"question {n}!1", f"question {n}!2"] for n in (0, 1)
        ]
        assert [(row["distil_row"], row["distil_sample"], row["model_name"]) for row in rows] == [
            (0, None, "parrot"),
            (1, None, "parrot"),
        ]

    def test_one_call_where_the_endpoint_can(self, lab, honours_n):
        """Four calls pay the prompt four times; but a server that ignores `n` must not lose three answers."""
        model = Model(honours_n=honours_n)
        lab.run(many(1), model, TextGeneration(num_generations=4))
        assert model.calls == (1 if honours_n else 4)
        assert len(model.asked) == 4

    def test_usage_of_one_call_adds_up(self, lab, honours_n):
        """Distilabel 1.5.3: each sample carried the tokens of the whole call, and a sum counted them n times."""
        manifest = lab.job(many(2), Model(honours_n=honours_n), TextGeneration(num_generations=3)).run()
        assert (manifest.input_tokens, manifest.output_tokens) == (60, 12)


def test_server_without_n_is_found_out_once(lab):
    """Asking for `n` again in every row would make each first call of a row a small one, for ever."""
    model = Model(honours_n=False, max_concurrency=1)
    lab.run(many(10), model, TextGeneration(num_generations=3))
    assert model.calls == 30


@pytest.mark.parametrize("honours_n", [True, False])
def test_samples_over_http(lab, honours_n):
    """The in-process model and the real client must agree on what `n` means."""
    with FakeLLM(honours_n=honours_n) as server:
        llm = OpenAILLM("fake", base_url=server.base_url, api_key="k")
        rows = lab.rows(lab.job(many(5), llm, TextGeneration(num_generations=2, group_generations=True)).run())
        assert [len(row["generation"]) for row in rows] == [2] * 5
        assert server.answered.choices == 10


def test_different_requests_of_samples_are_not_merged(lab):
    """A task that draws per sample makes other requests; `n` answers to one of them would be samples of one draw."""

    class Draws(TextGeneration):
        def converse(self, input, rng):
            answer = yield Chat([user(f"{input['instruction']} {rng.random()}")])
            return {"generation": answer.text}

    model = Model()
    lab.run(many(2), model, Draws(num_generations=3))
    assert model.calls == 6
    assert len(set(model.asked)) == 6


class TestMappings:
    def test_input_is_read_from_the_mapped_column(self, lab):
        """The dataset's own names are not the task's."""
        model = Model()
        rows = lab.run([{"prompt": "hi"}], model, TextGeneration(input_mappings={"instruction": "prompt"}))
        assert model.asked == ["hi"]
        assert rows[0]["prompt"] == "hi"
        assert "instruction" not in rows[0]

    def test_column_hidden_by_a_mapping_keeps_its_rows(self, lab):
        """Distilabel 1.5.3: with two samples, the hidden column was restored in the wrong order."""
        rows = [{"prompt": f"p{n}", "instruction": f"i{n}"} for n in range(3)]
        model = Model()
        task = TextGeneration(num_generations=2, input_mappings={"instruction": "prompt"})
        out = lab.run(rows, model, task)
        assert [row["instruction"] for row in out] == ["i0", "i0", "i1", "i1", "i2", "i2"]
        assert [row["prompt"] for row in out] == ["p0", "p0", "p1", "p1", "p2", "p2"]
        assert set(model.asked) == {"p0", "p1", "p2"}

    def test_output_goes_to_the_mapped_column(self, lab):
        """Distilabel 1.5.3: a mapped output destroyed the upstream column of the task's own name."""
        rows = [{"instruction": "a", "generation": "theirs", "model_name": "upstream"}]
        task = TextGeneration(output_mappings={"generation": "reply", "model_name": "judge"})
        [row] = lab.run(rows, Model(), task)
        assert (row["generation"], row["reply"], row["model_name"], row["judge"]) == ("theirs", "a!", "upstream", "parrot")

    def test_collision_is_refused_with_the_mapping_to_paste(self, lab):
        """Distilabel 1.5.3: a second task overwrote the first one's column without a word."""
        model = Model()
        with pytest.raises(TaskDefinitionError, match="overwrite 'generation'") as caught:
            lab.job([{"instruction": "a", "generation": "theirs"}], model)
        [pasted] = re.findall(r"output_mappings=(\{.*\})", str(caught.value))
        task = TextGeneration(output_mappings=eval(pasted))
        [row] = lab.run([{"instruction": "a", "generation": "theirs"}], model, task)
        assert row["generation"] == "theirs"
        assert "a!" in row.values()

    def test_missing_column_is_named_with_those_that_exist(self, lab):
        """Found at row 1 of the run, it would have cost the start of a worker; unnamed, an hour of looking."""
        with pytest.raises(TaskDefinitionError, match=r"reads 'instruction'.*columns are 'prompt', 'x'.*input_mappings"):
            lab.job([{"prompt": "hi", "x": 1}], Model())

    def test_mapped_optional_column_must_be_there(self, lab):
        """A mistyped `system_prompt` column would silently send no system prompt in the whole run."""
        with pytest.raises(TaskDefinitionError, match="'typo'"):
            lab.job(questions("a"), Model(), TextGeneration(input_mappings={"system_prompt": "typo"}))

    def test_what_is_advised_can_be_pasted(self, lab):
        """The advice named the column that is not there as the task's input, which broke the import of the DAG."""
        with pytest.raises(TaskDefinitionError, match=r"input_mappings=\{'instruction': '<column>'\}"):
            lab.job(questions("a"), Model(), TextGeneration(input_mappings={"instruction": "question"}))

    def test_optional_column_may_be_absent(self, lab):
        """`system_prompt` is optional."""
        assert lab.run(questions("a"), Model())[0]["generation"] == "a!"

    @pytest.mark.parametrize("mapped", ["distil_row", "distil_status"])
    def test_our_own_columns_are_not_for_outputs(self, lab, mapped):
        """The row's fate would be overwritten by an answer."""
        with pytest.raises(TaskDefinitionError, match="airflow-distil writes itself"):
            lab.job(questions("a"), Model(), TextGeneration(output_mappings={"generation": mapped}))

    def test_two_outputs_in_one_column_are_refused(self, lab):
        """One of them would be lost."""
        with pytest.raises(TaskDefinitionError, match="twice"):
            lab.job(questions("a"), Model(), TextGeneration(output_mappings={"generation": "model_name"}))


class TestChain:
    def test_ours_are_replaced_and_the_metadata_grows(self, lab, tmp_path):
        """Distilabel 1.5.3: the metadata of the first task was lost by the second."""
        lab.run(many(3), Model(model="first"))
        first = lab.summary()
        second = type(lab)(tmp_path / "second")
        task = TextGeneration(input_mappings={"instruction": "generation"}, output_mappings={"generation": "again"})
        out = second.run(first, Model(model="second"), task)
        second.close()
        assert [row["again"] for row in out] == [f"question {n}!!" for n in range(3)]
        assert [row["model_name"] for row in out] == ["second"] * 3
        assert [[entry["task"] for entry in row["distil_metadata"]] for row in out] == [["text_generation"] * 2] * 3
        assert [entry["input_tokens"] for entry in out[0]["distil_metadata"]] == [10, 10]
        assert list(out[0]).count("distil_row") == 1

    def test_rows_not_ok_upstream_come_through_as_skipped(self, lab, tmp_path):
        """Asking about a row without content pays for nonsense; dropping it loses a row."""
        lab.run(many(4), Model(lambda prompt, _: BadRow("too long") if prompt == "question 2" else prompt))
        first = lab.summary()
        second = type(lab)(tmp_path / "second")
        task = TextGeneration(output_mappings={"generation": "again"}, num_generations=2)
        model = Model()
        job = second.job(first, model, task, max_failure_ratio=0.0)
        manifest = job.run()
        out = second.rows(manifest)
        second.close()
        assert [(row["distil_row"], row["distil_sample"], row["distil_status"]) for row in out] == [
            (row, sample, "skipped" if row == 2 else "ok") for row in range(4) for sample in range(2)
        ]
        skipped = out[4]
        assert (skipped["again"], skipped["instruction"], skipped["distil_error"]) == (None, "question 2", "too long")
        assert len(skipped["distil_metadata"]) == 1
        assert "question 2" not in model.asked
        assert (manifest.skipped, manifest.ok, manifest.failed) == (2, 6, 0)

    def test_grouped_rows_that_are_skipped_are_one_row(self, lab, tmp_path):
        """A null list, not a list of nulls: there are no samples."""
        lab.run(many(3), Model(lambda prompt, _: BadRow("no") if prompt == "question 1" else prompt))
        first = lab.summary()
        second = type(lab)(tmp_path / "second")
        task = TextGeneration(output_mappings={"generation": "again"}, num_generations=2, group_generations=True)
        out = second.run(first, Model(), task)
        second.close()
        assert [row["again"] and len(row["again"]) for row in out] == [2, None, 2]
        assert [row["distil_status"] for row in out] == ["ok", "skipped", "ok"]


class TestFates:
    def test_bad_row_fails_alone(self, lab):
        """One prompt that is too long must not cost the night."""
        manifest = lab.job(
            many(20), Model(lambda prompt, _: BadRow("context length") if prompt == "question 7" else prompt)
        ).run()
        rows = lab.rows(manifest)
        assert [row["distil_row"] for row in rows if row["distil_status"] == "failed"] == [7]
        assert (rows[7]["generation"], rows[7]["distil_error"]) == (None, "context length")
        assert rows[7]["distil_metadata"][0]["error"] == "context length"
        assert (manifest.ok, manifest.failed, manifest.reasons) == (19, 1, {"context length": 1})

    def test_row_of_the_wrong_type_fails_alone_and_is_not_asked(self, lab):
        """Distilabel 1.5.3: `format_input` raised for the whole batch."""
        model = Model()
        rows = lab.run([{"instruction": "a", "x": {}}, {"instruction": None, "x": {}}, {"instruction": "c", "x": {}}], model)
        assert [row["distil_status"] for row in rows] == ["ok", "failed", "ok"]
        assert "cannot be asked about: TypeError" in rows[1]["distil_error"]
        assert model.asked == ["a", "c"]

    def test_unparsed_keeps_the_raw_answer(self, lab):
        """What the model said is the only way to see why it could not be read."""

        class Number(TextGeneration):
            output_types = {"generation": int}

            def format_output(self, output, input):
                return {"generation": int(output)}

        rows = lab.run(questions("4", "five"), Model(lambda prompt, _: prompt), Number(max_parse_retries=0))
        assert [row["generation"] for row in rows] == [4, None]
        assert [row["distil_status"] for row in rows] == ["ok", "unparsed"]
        assert "invalid literal" in rows[1]["distil_error"]
        assert [row["distil_metadata"][0]["raw_output"] for row in rows] == [None, "five"]

    def test_partial_columns_are_kept(self, lab):
        """Nine of ten scores are worth keeping."""

        class Partial(TextGeneration):
            @property
            def outputs(self):
                return ["generation", "rest"]

            def format_output(self, output, input):
                raise Unparsed("no rest", partial={"generation": output})

        [row] = lab.run(questions("a"), Model(), Partial(max_parse_retries=0))
        assert (row["distil_status"], row["generation"], row["rest"]) == ("unparsed", "a!", None)

    def test_answer_that_cannot_be_read_is_asked_for_again_with_the_reason(self, lab):
        """Distilabel 1.5.3: nothing asks again for an answer that could not be read."""

        class Number(TextGeneration):
            def format_output(self, output, input):
                return {"generation": str(int(output))}

        model = Model(lambda prompt, _: "7" if "cannot be used" in prompt else "seven")
        [row] = lab.run(questions("a"), model, Number())
        assert (row["distil_status"], row["generation"]) == ("ok", "7")
        roles = [[message["role"] for message in request.messages] for request in model.requests]
        assert roles == [["user"], ["user", "assistant", "user"]]
        assert "invalid literal" in model.asked[1]
        assert len(row["distil_metadata"]) == 2

    def test_empty_answer_is_asked_for_again_as_it_was(self, lab):
        """There is nothing to quote back to the model."""
        model = Model(lambda prompt, time: prompt if time else None)
        [row] = lab.run(questions("a"), model)
        assert (row["generation"], model.asked) == ("a", ["a", "a"])

    def test_grouped_row_has_the_worst_status(self, lab):
        """A group of which one failed is not ok."""
        model = Model(lambda prompt, time: None if time == 1 else prompt)
        task = TextGeneration(num_generations=3, group_generations=True, max_parse_retries=0)
        [row] = lab.run(questions("a"), model, task)
        assert row["distil_status"] == "unparsed"
        assert sorted(row["generation"], key=str) == [None, "a", "a"]

    def test_raw_texts_only_where_wanted(self, lab, tmp_path):
        """Prompts and answers may be private, and double the size."""
        [row] = lab.run(questions("a"), Model())
        assert (row["distil_metadata"][0]["raw_input"], row["distil_metadata"][0]["raw_output"]) == (None, None)
        other = type(lab)(tmp_path / "other")
        [row] = other.run(questions("a"), Model(), TextGeneration(add_raw_input=True, add_raw_output=True))
        other.close()
        assert '"content":"a"' in row["distil_metadata"][0]["raw_input"]
        assert row["distil_metadata"][0]["raw_output"] == "a!"

    def test_half_a_surrogate_pair_is_written(self, lab):
        """A model that was cut off in an emoji sends half of one; UTF-8 has none, and the whole dataset failed at its end."""

        class Read(TextGeneration):
            @property
            def outputs(self):
                return ["generation", "learnt"]

            def format_output(self, output, input):
                if output.startswith("bad"):
                    raise Unparsed("not \ud83d this")
                return {"generation": f"\ud83d{output}", "learnt": {"deep": ["\ude00"]}}

        model = Model(lambda prompt, _: BadRow("oh \ud83d") if prompt == "no" else f"{prompt}\ud83d")
        manifest = lab.job(questions("hi", "bad", "no"), model, Read(max_parse_retries=0)).run()
        rows = lab.rows(manifest)
        assert (rows[0]["generation"], rows[0]["learnt"]) == ("\ufffdhi\ufffd", {"deep": ["\ufffd"]})
        assert [row["distil_error"] for row in rows] == [None, "not \ufffd this", "oh \ufffd"]
        assert rows[1]["distil_metadata"][0]["raw_output"] == "bad\ufffd"
        assert lab.manifest().reasons == {"not \ufffd this": 1, "oh \ufffd": 1}


class TestManifest:
    def test_bill_counts_each_answer_once(self, lab):
        """Null where a price or count is unknown, never guessed."""
        priced = lab.job(many(4), Model(input_price=1.0, output_price=100.0)).run()
        assert (priced.input_tokens, priced.output_tokens) == (40, 8)
        assert priced.cost_usd == pytest.approx(4 * (10 * 1.0 + 2 * 100.0) / 1e6)

    def test_unknown_price_is_no_price(self, lab):
        """Zero dollars would be believed."""
        assert lab.job(many(2), Model(input_price=1.0)).run().cost_usd is None

    def test_unknown_usage_is_no_usage(self, lab):
        """An endpoint that does not count must not look free."""
        manifest = lab.job(many(2), Model(lambda prompt, _: Answer(text=prompt, usage=Usage(None, 3)))).run()
        assert (manifest.input_tokens, manifest.output_tokens) == (None, 6)

    def test_numbers_of_outputs_are_summed_up(self, lab):
        """At a glance one sees that all scores are 1."""

        class Score(TextGeneration):
            output_types = {"generation": float}

            def format_output(self, output, input):
                return {"generation": output}

        manifest = lab.job([{"instruction": str(n), "n": n} for n in range(4)], Model(lambda p, _: p), Score()).run()
        assert manifest.numbers["generation"] == {"min": 0.0, "max": 3.0, "mean": 1.5, "count": 4}
        assert "n" not in manifest.numbers

    @pytest.mark.parametrize("said", ["nan", "inf", "-inf"])
    def test_number_that_json_cannot_hold_is_published_all_the_same(self, lab, said):
        """The manifest had null there, and could never be read again: an edition lost after it was published."""

        class Score(TextGeneration):
            output_types = {"generation": float}

            def format_output(self, output, input):
                return {"generation": float(output)}

        lab.run(questions("a"), Model(lambda *_: said), Score())
        assert lab.manifest().ok == 1

    def test_task_with_types_among_its_fields_is_published(self, lab):
        """`list[str]` among the fields could not be written as JSON: an error after everything was paid."""

        def f(row):
            text = yield row["instruction"]
            return {"words": text.split()}

        rows = lab.run(questions("a b"), Model(lambda p, _: p), Function(function=f, columns={"words": list[str]}))
        assert rows[0]["words"] == ["a", "b"]

    def test_map_index_is_a_column(self, lab):
        """Siblings join on it."""
        mapped = Identity(dag_id="dag", task_id="task", run_id="run", map_index=3)
        assert lab.run(questions("a"), Model(), identity=mapped)[0]["distil_map"] == 3

    def test_unmapped_it_is_null(self, lab):
        """-1 is Airflow's way to say so, not ours."""
        assert lab.run(questions("a"), Model())[0]["distil_map"] is None


class TestStores:
    def test_file_and_memory_hold_the_same_parts(self, lab, tmp_path):
        """Parts that depend on the store could not be compared by checksum."""
        store = open_store(URI.parse(str(tmp_path / "out")))
        rows, task = many(50), TextGeneration(num_generations=2)
        in_file = Job(
            task=task,
            llm=Model(),
            source=open_source(rows),
            store=store,
            destination=str(store),
            identity=IDENTITY,
            ask=ask(),
            scratch=tmp_path / "s",
        ).run()
        in_memory = lab.job(rows, Model(), task, max_failure_ratio=0.05).run()
        assert [(part.rows, part.bytes, part.sha256) for part in in_file.parts] == [
            (part.rows, part.bytes, part.sha256) for part in in_memory.parts
        ]

    def test_source_that_changes_while_it_is_read_is_not_published(self, lab, tmp_path):
        """Half of the rows would be of one version and half of the other."""
        path = tmp_path / "in.parquet"
        pq.write_table(pa.table({"instruction": ["a", "b"]}), path)

        def say(prompt, _):
            pq.write_table(pa.table({"instruction": ["x", "y"]}), path)
            return prompt

        with pytest.raises(SourceError):
            lab.job(str(path), Model(say)).run()
        assert lab.names("_distil/manifests/") == []
        assert len(lab.facts()) == 2

    def test_source_that_changes_after_it_was_read_is_not_published(self, lab, tmp_path, monkeypatch):
        """The fingerprint would name a version that gave other rows, if the file was read while it changed."""
        path = tmp_path / "in.parquet"
        pq.write_table(pa.table({"instruction": ["a", "b"]}), path)
        finish = job_module.PartWriter.finish

        def change(self):
            pq.write_table(pa.table({"instruction": ["x", "y", "z"]}), path)
            return finish(self)

        monkeypatch.setattr(job_module.PartWriter, "finish", change)
        with pytest.raises(SourceError, match="changed while it was being read"):
            lab.job(str(path), Model()).run()
        assert lab.names("_distil/manifests/") == []


class TestRun:
    def test_inside_a_running_loop(self, lab):
        """A notebook has one; `asyncio.run` in it would raise."""

        async def notebook():
            return lab.run(questions("a"), Model())

        assert asyncio.run(notebook())[0]["generation"] == "a!"

    def test_bug_in_the_model_ends_the_run(self, lab):
        """A TypeError of ours taken for a bad row would fail a million rows one by one."""
        with pytest.raises(ZeroDivisionError):
            lab.job(many(10), Model(lambda prompt, _: 1 / 0)).run()
        assert lab.names("_distil/manifests/") == []

    def test_reports_come_in_the_callers_thread(self, lab, monkeypatch):
        """Airflow's XCom client belongs to the thread of `execute`."""
        threads = []
        lab.job(questions("a"), Model()).run(report=lambda _: threads.append(threading.current_thread()))
        assert threads == [threading.current_thread()]

    def test_window_holds_no_more_than_the_limit(self, lab):
        """More in flight than the connection allows is what rate limits punish."""
        model = Model(max_concurrency=3)
        lab.run(many(60), model)
        assert model.peak <= 3

    def test_limit_of_the_operator_wins(self, lab):
        """It is the narrower choice."""
        model = Model(max_concurrency=50)
        lab.run(many(60), model, max_concurrency=2)
        assert model.peak <= 2

    def test_faults_over_http_are_ridden_out(self, lab):
        """A row must not fail because its first try met a restarting server."""
        faults = [Fault(status=503, times=3), Fault(status=429, headers={"Retry-After": "0"}, times=3)]
        with FakeLLM(faults=faults) as server:
            llm = OpenAILLM("fake", base_url=server.base_url, api_key="k")
            rows = lab.rows(lab.job(many(20), llm).run())
        assert {row["distil_status"] for row in rows} == {"ok"}
        assert max(row["distil_metadata"][0]["attempts"] for row in rows) > 1


class TestChat:
    def test_messages_go_out_as_they_are(self, lab):
        """A column of structs has every field in every message; nulls among them are not the user's."""
        rows = [
            {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u", "name": "ann"}]},
            {"messages": [{"role": "user", "content": "v"}]},
        ]
        model = Model()
        assert [row["generation"] for row in lab.run(rows, model, ChatGeneration())] == ["u!", "v!"]
        first = next(request for request in model.requests if len(request.messages) == 2)
        assert first.messages[0] == {"role": "system", "content": "s"}


def test_custom_task_with_list_of_requests(lab):
    """Independent requests of one row go out together and come back in order."""

    class Both(Task):
        @property
        def inputs(self):
            return ["instruction"]

        @property
        def outputs(self):
            return ["a", "b"]

        def converse(self, input, rng):
            first, second = yield [Chat([user(f"{input['instruction']} {x}")]) for x in "ab"]
            return {"a": first.text, "b": second.text}

    rows = lab.run(many(5), Model(), Both())
    assert [(row["a"], row["b"]) for row in rows] == [(f"question {n} a!", f"question {n} b!") for n in range(5)]
    assert len(rows[0]["distil_metadata"]) == 2
