"""Text from an instruction, or from a template over columns."""

from __future__ import annotations

import jinja2
import pytest
from pydantic import ValidationError

from airflow_distil.tasks import TextGeneration


def prompt(row, **fields):
    return TextGeneration(**fields).format_input(row)


class TestInstruction:
    def test_text_is_the_users_message(self):
        """And nothing else is sent."""
        assert prompt({"instruction": "hi"}) == [{"role": "user", "content": "hi"}]

    def test_content_parts_are_sent_as_they_are(self):
        """Pictures; fields that another row's parts have are null there."""
        parts = [
            {"type": "text", "text": "what?", "image_url": None},
            {"type": "image_url", "image_url": {"url": "x"}, "text": None},
        ]
        assert prompt({"instruction": parts})[0]["content"] == [
            {"type": "text", "text": "what?"},
            {"type": "image_url", "image_url": {"url": "x"}},
        ]

    @pytest.mark.parametrize("instruction", [None, 3, [], ["a"], [{"role": "user", "content": "x"}], {"a": 1}])
    def test_anything_else_fails_its_row(self, instruction):
        """Sent as its repr, it would be answered."""
        with pytest.raises(TypeError, match="must be text or a list of content parts"):
            prompt({"instruction": instruction})

    def test_row_text_is_never_a_template(self):
        """A row with `{{ config }}` in it would be rendered, or raise."""
        assert prompt({"instruction": "{{ 7 * 7 }}"})[0]["content"] == "{{ 7 * 7 }}"
        assert prompt({"a": "{{ 7 * 7 }}"}, columns="a", template="say {{ a }}")[0]["content"] == "say {{ 7 * 7 }}"

    def test_answer_is_the_output(self):
        """As it came, with its spaces."""
        assert TextGeneration().format_output(" x\n", {}) == {"generation": " x\n"}


class TestSystemPrompt:
    @pytest.mark.parametrize(
        ("row", "parameter", "use", "expected"),
        [
            (None, None, True, None),
            (None, "p", True, "p"),
            ("r", "p", True, "r"),
            ("r", None, True, "r"),
            ("", "p", True, "p"),
            ("r", "p", False, None),
            ("r", None, False, None),
        ],
    )
    def test_the_rows_own_wins(self, row, parameter, use, expected):
        """An empty one does not; and none at all is no empty message."""
        messages = prompt({"instruction": "i", "system_prompt": row}, system_prompt=parameter, use_system_prompt=use)
        assert [message["content"] for message in messages if message["role"] == "system"] == ([expected] if expected else [])
        assert messages[-1] == {"role": "user", "content": "i"}

    def test_column_is_an_input_only_if_it_is_used(self):
        """The operator checks columns by it."""
        assert TextGeneration().inputs == {"instruction": True, "system_prompt": False}
        assert TextGeneration(use_system_prompt=False).inputs == {"instruction": True}


class TestTemplate:
    def test_sees_the_columns_as_values(self):
        """Distilabel 1.5.3: `{{ doc | trim }}` and fields of a column were refused."""
        template = "{{ doc.title | trim }}: {% for tag in tags %}{{ tag }} {% endfor %}"
        row = {"doc": {"title": " T "}, "tags": ["a", "b"]}
        assert prompt(row, template=template, columns=["doc", "tags"])[0]["content"] == "T: a b "

    @pytest.mark.parametrize("template", ["{{ question }}", "{% if x %}a{% endif %}", "{{ instruction }}{{ other }}"])
    def test_unknown_name_is_refused_when_the_task_is_made(self, template):
        """In the DAG file, not after an hour in the first row."""
        with pytest.raises(ValidationError, match="only sees instruction"):
            TextGeneration(template=template)

    def test_syntax_error_is_refused_when_the_task_is_made(self):
        """With its reason."""
        with pytest.raises(ValidationError, match="not valid Jinja2"):
            TextGeneration(template="{{ instruction")

    def test_columns_without_a_template_are_refused(self):
        """The default template reads `instruction`, which is not among them."""
        with pytest.raises(ValidationError, match="instruction"):
            TextGeneration(columns="question")

    def test_several_columns_with_the_default_template_send_the_instruction(self):
        """No more than it names."""
        assert prompt({"instruction": "i", "x": 1}, columns=["instruction", "x"])[-1]["content"] == "i"

    @pytest.mark.parametrize(
        "template",
        ["{{ x }}", "{{ x | trim }}", "{% for each in x %}{{ each }}{% endfor %}", "{{ x | join }}", "{{ x | length }}"],
    )
    def test_null_fails_its_row(self, template):
        """It was sent as the word "None"."""
        with pytest.raises(TypeError, match="`x` is null in this row"):
            prompt({"x": None}, template=template, columns="x")

    def test_null_may_be_asked_for(self):
        """An optional column is what conditions and defaults are for."""
        template = "{% if x %}{{ x }}{% else %}-{% endif %}{{ x or '-' }}{{ x | default('-') }}"
        assert prompt({"x": None}, template=template, columns="x")[0]["content"] == "---"
        assert prompt({"x": None, "y": 1}, template="{{ y }}", columns=["x", "y"])[0]["content"] == "1"

    def test_missing_attribute_fails_its_row(self):
        """An empty place in a prompt is answered as if it were meant."""
        with pytest.raises(jinja2.UndefinedError):
            prompt({"doc": {}}, template="{{ doc.title }}", columns="doc")

    @pytest.mark.parametrize(
        "template",
        [
            "{{ instruction.__class__.__mro__ }}",
            "{{ ''.__class__ }}",
            "{{ instruction.__init__.__globals__ }}",
            "{% for x in ().__class__.__base__.__subclasses__() %}{% endfor %}",
        ],
    )
    def test_sandbox(self, template):
        """A prompt from a file that others may write runs on the worker."""
        with pytest.raises(jinja2.exceptions.SecurityError):
            prompt({"instruction": "x"}, template=template)

    def test_template_cannot_change_the_row(self):
        """The next sample would see another list."""
        with pytest.raises(jinja2.exceptions.SecurityError):
            prompt({"xs": [1]}, template="{{ xs.append(2) }}", columns="xs")

    def test_nothing_is_escaped(self):
        """A prompt is not HTML."""
        assert prompt({"a": "<b> & 'c'"}, template="{{ a }}!", columns="a")[0]["content"] == "<b> & 'c'!"
