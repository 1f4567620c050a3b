"""The contract of a task: what a custom one written from the seed document gets."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
from random import Random
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from airflow_distil import tasks
from airflow_distil.conversation import Answer, Unparsed, user
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.llms.openai import OpenAILLM
from airflow_distil.tasks import Task, TextGeneration
from airflow_distil.testing import FakeLLM
from tests.unit.engine.lab import Model

# The example of the document that the project starts from; only the import lines are ours.
SEED = """
from typing import Any, Dict, List, Union

from airflow_distil.tasks import Task
from airflow_distil.tasks import ChatType


class MyCustomTask(Task):
    @property
    def inputs(self) -> List[str]:
        return ["input_field"]

    def format_input(self, input: Dict[str, Any]) -> ChatType:
        return [
            {
                "role": "user",
                "content": input["input_field"],
            },
        ]

    @property
    def outputs(self) -> List[str]:
        return ["output_field", "model_name"]

    def format_output(
        self, output: Union[str, None], input: Dict[str, Any]
    ) -> Dict[str, Any]:
        return {"output_field": output}
"""


@pytest.fixture
def custom(tmp_path):
    """The seed document's task, from a file as users have it."""
    path = tmp_path / "my_custom_task.py"
    path.write_text(SEED)
    spec = importlib.util.spec_from_file_location("my_custom_task", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["my_custom_task"] = module
    spec.loader.exec_module(module)
    yield module.MyCustomTask
    del sys.modules["my_custom_task"]


class Score(Task):
    """Reads a score out of an answer."""

    low: int = 1

    @property
    def inputs(self) -> dict[str, bool]:
        return {"text": True, "hint": False}

    @property
    def outputs(self) -> list[str]:
        return ["score", "model_name"]

    def format_input(self, input):
        return [user(input["text"])]

    def format_output(self, output, input):
        return {"score": int(output)}


class Verdict(BaseModel):
    good: bool
    why: str


class Judge(Score):
    def json_schema(self):
        return {"title": "A verdict!", "type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}

    def format_output(self, output, input):
        return json.loads(output)


def conversation(task: Task, *answers: str | None, row: dict[str, Any] | None = None) -> tuple[list[Any], Any]:
    """Drive `converse` by hand; return the requests and what it returned or raised."""
    talk = task.converse(row or {"text": "t"}, Random(0))
    requests = [next(talk)]
    for answer in answers:
        try:
            requests.append(talk.send(Answer(text=answer)))
        except StopIteration as end:
            return requests, end.value
        except Unparsed as error:
            return requests, error
    return requests, None


class TestSeed:
    def test_standalone_as_in_the_document(self, custom):
        """`load()`, `next(process([...]))`, and the row comes back with its columns and the model's name."""
        task = custom(name="my-task", llm=Model(lambda prompt, _: f"re: {prompt}", model="gpt-4"))
        task.load()
        assert next(task.process([{"input_field": "hi"}])) == [
            {"input_field": "hi", "output_field": "re: hi", "model_name": "gpt-4"}
        ]

    def test_text_generation_as_in_the_document(self):
        """The document's first example, against a server."""
        with FakeLLM(answer="The capital of Spain is Madrid.") as server:
            task = TextGeneration(name="text-generation", llm=OpenAILLM(model="gpt-4", base_url=server.base_url))
            task.load()
            assert next(task.process([{"instruction": "What's the capital of Spain?"}])) == [
                {
                    "instruction": "What's the capital of Spain?",
                    "generation": "The capital of Spain is Madrid.",
                    "model_name": "gpt-4",
                }
            ]

    def test_inside_a_running_loop(self, custom):
        """A notebook has one."""

        async def notebook():
            task = custom(llm=Model())
            task.load()
            return next(task.process([{"input_field": "hi"}]))

        assert asyncio.run(notebook())[0]["output_field"] == "hi!"

    def test_twice_and_from_two_loops(self, custom):
        """Connections belong to an event loop; the second cell of a notebook runs in another."""
        with FakeLLM() as server:
            task = custom(llm=OpenAILLM(model="m", base_url=server.base_url))
            for _ in range(2):
                assert next(task.process([{"input_field": "hi"}]))[0]["model_name"] == "m"

    def test_default_name_is_the_class_in_snake_case(self, custom):
        """It stands in the metadata of every row."""
        assert custom().name == "my_custom_task"


class TestProcess:
    def test_rows_come_back_in_order_with_everything(self):
        """Values that Arrow would have changed come back as they were given."""
        rows = [{"instruction": str(n), "any": (n, {"x": n})} for n in range(50)]
        out = next(TextGeneration(llm=Model()).process(rows))
        assert [row["any"] for row in out] == [(n, {"x": n}) for n in range(50)]
        assert [row["generation"] for row in out] == [f"{n}!" for n in range(50)]

    def test_no_rows_are_no_rows(self):
        """Not an error: a filter may leave none."""
        assert list(TextGeneration(llm=Model()).process([])) == [[]]

    def test_samples(self):
        """One row per sample, or lists."""
        model = Model(lambda prompt, time: f"{prompt}{time}")
        out = next(TextGeneration(llm=model, num_generations=2).process([{"instruction": "a"}]))
        assert [row["generation"] for row in out] == ["a0", "a1"]
        grouped = TextGeneration(llm=Model(lambda p, time: f"{p}{time}"), num_generations=2, group_generations=True)
        assert next(grouped.process([{"instruction": "a"}]))[0]["generation"] == ["a0", "a1"]

    def test_row_that_is_not_ok_says_so(self):
        """A row of None without a word is a riddle."""
        out = next(Score(llm=Model(lambda prompt, _: prompt), max_parse_retries=0).process([{"text": "7"}, {"text": "x"}]))
        assert out[0] == {"text": "7", "score": 7, "model_name": "parrot"}
        assert (out[1]["score"], out[1]["distil_status"]) == (None, "unparsed")
        assert "invalid literal" in out[1]["distil_error"]
        assert out[1]["distil_metadata"][0]["raw_output"] == "x"

    def test_raw_texts_are_there_if_wanted(self):
        """In a notebook `add_raw_output` did nothing."""
        [row] = next(TextGeneration(llm=Model(), add_raw_output=True).process([{"instruction": "x"}]))
        assert row["distil_metadata"][0]["raw_output"] == "x!"

    def test_mapped_columns(self):
        """As in a DAG."""
        task = TextGeneration(
            llm=Model(), input_mappings={"instruction": "q"}, output_mappings={"generation": "a", "model_name": "by"}
        )
        assert next(task.process([{"q": "x"}])) == [{"q": "x", "a": "x!", "by": "parrot"}]

    def test_without_an_llm(self):
        """A task of a DAG has none; by itself it needs one."""
        with pytest.raises(TaskDefinitionError, match="has no LLM"):
            TextGeneration().load()
        with pytest.raises(TaskDefinitionError, match="has no LLM"):
            next(TextGeneration().process([{"instruction": "a"}]))

    def test_missing_column(self):
        """Named, not a KeyError in every row."""
        with pytest.raises(TaskDefinitionError, match="reads 'instruction'"):
            next(TextGeneration(llm=Model()).process([{"x": 1}]))


class TestDefinition:
    def test_unknown_field_is_refused(self):
        """`num_generation=4` would silently be one."""
        with pytest.raises(ValidationError, match="num_generation"):
            TextGeneration(num_generation=4)

    @pytest.mark.parametrize("name", ["a b", "a/b", "ä", "a\n"])
    def test_name_that_is_no_name(self, name):
        """It is part of messages and columns that are pasted."""
        with pytest.raises(ValidationError):
            TextGeneration(name=name)

    @pytest.mark.parametrize(
        ("field", "value"), [("num_generations", 0), ("max_parse_retries", -1), ("num_generations", "many")]
    )
    def test_impossible_values_are_refused(self, field, value):
        """Also when they are assigned later."""
        with pytest.raises(ValidationError):
            TextGeneration(**{field: value})
        task = TextGeneration()
        with pytest.raises(ValidationError):
            setattr(task, field, value)

    @pytest.mark.parametrize("mappings", [{"input_mappings": {"instructions": "x"}}, {"output_mappings": {"generations": "x"}}])
    def test_mapping_of_an_unknown_name_is_refused(self, mappings):
        """A typing error would be a mapping without effect."""
        with pytest.raises(TaskDefinitionError, match=r"names '\w+'; its (in|out)puts are"):
            TextGeneration(**mappings).check()

    def test_model_name_can_be_mapped(self):
        """It is an output of every task, declared or not."""
        TextGeneration(output_mappings={"model_name": "judge"}).check()

    def test_task_without_outputs_is_refused(self):
        """There would be nothing to write, and every answer unparsed."""

        class Nothing(Score):
            @property
            def outputs(self):
                return ["model_name"]

        with pytest.raises(TaskDefinitionError, match="no outputs"):
            Nothing().check()

    def test_inputs_as_list_or_dict(self):
        """Both forms of the document's base class."""
        assert Score().input_names == {"text": True, "hint": False}
        assert TextGeneration(columns=["a", "b"], template="{{ a }}{{ b }}", use_system_prompt=False).input_names == {
            "a": True,
            "b": True,
        }

    def test_forgotten_method_is_named(self):
        """Not `NotImplementedError` in every row."""

        class Half(Task):
            @property
            def inputs(self):
                return ["a"]

            @property
            def outputs(self):
                return ["b"]

        with pytest.raises(TaskDefinitionError, match="Half must implement format_input, or override converse"):
            next(Half().converse({"a": 1}, Random(0)))

    def test_public_names_are_what_is_listed(self):
        """A class that nobody can import, or one that nobody meant to promise."""
        assert sorted(tasks.__all__) == tasks.__all__
        assert all(hasattr(tasks, name) for name in tasks.__all__)

    def test_repr_is_the_same_in_each_process(self):
        """Airflow hashes it: with an address in it, the DAG would have a new version at each parse."""
        task = TextGeneration(template="{{ instruction }}", llm=Model(), structured_output=Verdict)
        assert " at 0x" not in repr(task)
        assert repr(task) == repr(TextGeneration(template="{{ instruction }}", llm=Model(), structured_output=Verdict))

    def test_repr_has_no_llm(self):
        """It may hold a key."""
        assert "llm" not in repr(TextGeneration(llm=Model()))
        assert "llm" not in TextGeneration(llm=Model()).model_dump()


class TestConverse:
    def test_one_request_and_its_columns(self):
        """The default conversation."""
        requests, columns = conversation(Score(), "7")
        assert [request.messages for request in requests] == [[user("t")]]
        assert columns == {"score": 7}

    @pytest.mark.parametrize("retries", [0, 1, 3])
    def test_unreadable_answers_are_asked_for_again(self, retries):
        """As often as told, then given up."""
        requests, error = conversation(Score(max_parse_retries=retries), *["seven"] * 5)
        assert len(requests) == retries + 1
        assert isinstance(error, Unparsed)

    def test_asking_again_goes_on_with_the_conversation(self):
        """The model sees what it said and what was wrong with it."""
        requests, columns = conversation(Score(), "seven", "7")
        assert columns == {"score": 7}
        first, answer, again = requests[1].messages
        assert (first, answer) == (user("t"), {"role": "assistant", "content": "seven"})
        assert "invalid literal for int()" in again["content"]
        assert "exactly in the format" in again["content"]

    def test_second_time_again_quotes_the_second_answer(self):
        """Quoting the first one would confuse the model, and give both turns one key."""
        requests, _ = conversation(Score(max_parse_retries=2), "seven", "eight", "9")
        assert [message["content"] for message in requests[2].messages if message["role"] == "assistant"] == ["seven", "eight"]

    @pytest.mark.parametrize("empty", [None, ""])
    def test_empty_answer_is_asked_for_as_it_was(self, empty):
        """There is nothing to quote."""
        requests, _ = conversation(Score(), empty, "7")
        assert requests[1] == requests[0]

    def test_all_columns_none_is_unparsed(self):
        """A row that is ok and empty would be counted as a success."""

        class Nothing(Score):
            def format_output(self, output, input):
                return {"score": None, "other": 1}

        _, error = conversation(Nothing(max_parse_retries=0), "x")
        assert error.reason == "no output could be read from the answer"

    def test_unparsed_of_the_task_keeps_its_partial(self):
        """Wrapped, it would lose what was read."""

        class Partly(Score):
            def format_output(self, output, input):
                raise Unparsed("half", partial={"score": 1})

        _, error = conversation(Partly(max_parse_retries=0), "x")
        assert (error.reason, error.partial) == ("half", {"score": 1})


class TestStructure:
    @pytest.mark.parametrize(
        ("structured", "title"),
        [(Verdict, "Verdict"), ({"type": "object", "title": "My schema/1"}, "My_schema_1"), ({"type": "object"}, "score")],
    )
    def test_schema_is_sent(self, structured, title):
        """As `response_format`, under a name that endpoints accept."""
        [request], _ = conversation(Score(structured_output=structured))
        sent = request.response_format
        assert (sent["type"], sent["json_schema"]["name"]) == ("json_schema", title)
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", sent["json_schema"]["name"])
        assert sent["json_schema"]["schema"]["type"] == "object"

    def test_true_is_the_tasks_own(self):
        """The one that its `format_output` reads."""
        [request], _ = conversation(Judge(structured_output=True))
        assert request.response_format["json_schema"]["schema"] == Judge().json_schema()

    def test_true_without_one_is_refused(self):
        """Before the first call."""
        with pytest.raises(TaskDefinitionError, match="no structured answer of its own"):
            Score(structured_output=True).check()

    def test_schema_that_is_none_is_refused(self):
        """Found out in the first answer, it would make every row unparsed, and paid."""
        with pytest.raises(TaskDefinitionError, match="not a JSON schema"):
            Score(structured_output={"type": "objekt"}).check()

    def test_false_is_free_text(self):
        """No `response_format` for endpoints that know none."""
        [request], _ = conversation(Score())
        assert request.response_format is None

    def test_asking_again_keeps_the_schema(self):
        """Else the second answer is free text."""
        requests, _ = conversation(Judge(structured_output=True), "no json", '{"score": 1}')
        assert requests[1].response_format == requests[0].response_format

    @pytest.mark.parametrize(
        ("structured", "answer", "reason"),
        [
            (True, "no json", r"not JSON|not fit"),
            (True, "[1]", "not fit"),
            (True, '{"score": "x"}', r"not fit the JSON schema at \$?\.?score"),
            (True, "{}", "'score' is a required property"),
            (True, None, r"not JSON|not fit"),
            (Verdict, '{"good": true}', "at why: Field required"),
            (Verdict, "no json", "not fit"),
            (Verdict, None, "not fit"),
        ],
    )
    def test_answer_is_checked_on_return(self, structured, answer, reason):
        """Endpoints that ignore `response_format` are many; distilabel 1.5.3: nothing is checked."""
        _, error = conversation(Judge(structured_output=structured, max_parse_retries=0), answer)
        assert isinstance(error, Unparsed)
        assert re.search(reason, error.reason), error.reason

    def test_good_answer_passes(self):
        """Both kinds."""
        assert conversation(Judge(structured_output=True), '{"score": 3}')[1] == {"score": 3}

        class Words(Score):
            def format_output(self, output, input):
                return {"score": json.loads(output)["why"]}

        assert conversation(Words(structured_output=Verdict), '{"good": true, "why": "w"}')[1] == {"score": "w"}
