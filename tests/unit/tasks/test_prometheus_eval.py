"""Verdicts by a rubric."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_distil.conversation import Answer, Unparsed
from airflow_distil.exceptions import TaskDefinitionError
from airflow_distil.tasks import prometheus_eval
from airflow_distil.tasks.prometheus_eval import RUBRICS, PrometheusEval
from tests.unit.engine.lab import Lab, Model

ROW = {"instruction": "Say hi.", "generation": "hi", "generations": ["hi", "hello"], "reference": "good day"}
RUBRIC = "[Is it short?]\n" + "\n".join(f"Score {score}: {score} words" for score in range(1, 6))


def prompt(row=ROW, **fields):
    (message,) = PrometheusEval(**fields).format_input(row)
    return message["content"]


def read(text, mode="absolute"):
    columns = PrometheusEval(mode=mode).format_output(text, ROW)
    return columns["result"], columns["feedback"]


def unread(text, mode="absolute"):
    with pytest.raises(Unparsed, match=r"\[RESULT\]") as caught:
        read(text, mode)
    return caught.value.partial


def sections(text):
    return [line for line in text.splitlines() if line.startswith("###")]


class TestPrompt:
    def test_absolute(self):
        """The sections that the model was trained on, in their order."""
        text = prompt(rubrics={"short": RUBRIC}, rubric="short")
        assert sections(text) == [
            "###Task Description:",
            "###The instruction to evaluate:",
            "###Response to evaluate:",
            "###Score Rubrics:",
            "###Feedback: ",
        ]
        assert text.endswith(f"\n\n###Response to evaluate:\nhi\n\n###Score Rubrics:\n{RUBRIC}\n\n###Feedback: ")
        assert '[RESULT] (a whole number from 1 to 5)"\n4. ' in text

    def test_absolute_with_reference(self):
        """The reference is told to be worth a 5."""
        assert "\n\n###Reference Answer (Score 5):\ngood day\n\n###Score Rubrics:" in prompt(reference=True)

    def test_relative(self):
        """In distilabel 1.5.3: the whole rubric was sent; the model was trained on its first line."""
        text = prompt(mode="relative", rubrics={"short": RUBRIC}, rubric="short")
        assert sections(text) == [
            "###Task Description:",
            "###Instruction:",
            "###Response A:",
            "###Response B:",
            "###Score Rubric:",
            "###Feedback: ",
        ]
        assert "\n\n###Response A:\nhi\n\n###Response B:\nhello\n\n###Score Rubric:\n[Is it short?]\n\n###Feedback: " in text
        assert "words" not in text

    @pytest.mark.parametrize("mode", ["absolute", "relative"])
    def test_only_a_reference_that_is_there_is_announced(self, mode):
        """In distilabel 1.5.3: the two introductions of mode relative were swapped."""
        assert "reference" not in prompt(mode=mode).lower()
        text = prompt(mode=mode, reference=True)
        assert "a reference answer" in text.partition("1. ")[0]
        assert "\n\n###Reference Answer" in text

    @pytest.mark.parametrize("mode", ["absolute", "relative"])
    def test_no_prefix_is_asked_for(self, mode):
        """In distilabel 1.5.3: rule 3 told the model to begin with `Feedback:`, which it was not trained to do."""
        (rule,) = (line for line in prompt(mode=mode).splitlines() if line.startswith("3. "))
        assert "Feedback:" not in rule
        assert "[RESULT]" in rule

    def test_judges_role_opens_the_users_turn(self):
        """In distilabel 1.5.3: it was a system message, which the model's chat template does not know."""
        text = prompt()
        role, _, rest = text.partition("\n")
        assert role.startswith("You are an impartial judge.")
        assert rest.startswith("###Task Description:")
        messages = PrometheusEval(system_role=True).format_input(ROW)
        assert messages == [{"role": "system", "content": role}, {"role": "user", "content": rest}]
        assert prompt(system_prompt="").startswith("###Task")
        assert prompt(system_prompt="You.").startswith("You.\n###Task")

    def test_structured(self):
        """Text was asked for where JSON was enforced."""
        for mode in ("absolute", "relative"):
            text = prompt(mode=mode, structured_output=True)
            assert "JSON" in text
            assert "[RESULT]" not in text

    def test_row_text_is_data(self):
        """A text with braces was rendered, or raised."""
        assert "{{ 7 * 7 }} {x}" in prompt({**ROW, "generation": "{{ 7 * 7 }} {x}"})

    @pytest.mark.parametrize("generations", [[], ["a"], ["a", "b", "c"], ["a", None], "ab", None])
    def test_two_texts_are_compared(self, generations):
        """In distilabel 1.5.3: one wrong row ended the whole batch."""
        with pytest.raises((TypeError, ValueError), match="generations"):
            prompt({**ROW, "generations": generations}, mode="relative")

    @pytest.mark.parametrize("column", ["instruction", "generation", "reference"])
    def test_what_is_no_text_fails_its_row(self, column):
        """Its repr would be judged."""
        with pytest.raises(TypeError, match=f"`{column}` must be text"):
            prompt({**ROW, column: None}, reference=True)

    def test_template(self):
        """Ours can be replaced by one that sees the same."""
        given = "{{ generation }} {{ reference }} {{ structured }}{{ '' if instruction else '' }}"
        assert prompt(template=given, system_prompt="") == "hi None False"
        given = "{{ generations[1] }} {{ rubric }} {{ instruction }}"
        assert prompt(template=given, mode="relative", system_prompt="").startswith("hello [")
        with pytest.raises(ValidationError, match="uses generations"):
            PrometheusEval(template="{{ generations }}")


class TestRubrics:
    def test_ours_are_valid(self):
        """And named as the seed names them."""
        assert list(RUBRICS) == ["helpfulness", "harmlessness", "honesty", "factual-validity", "reasoning"]
        for name in RUBRICS:
            assert RUBRICS[name] in prompt(rubric=name)

    @pytest.mark.parametrize(
        "wrong",
        [
            "",
            "no brackets\n" + RUBRIC.partition("\n")[2],
            RUBRIC.partition("\n")[2],
            RUBRIC.rpartition("\n")[0],
            RUBRIC + "\nScore 6: six words",
            RUBRIC.replace("Score 5", "Score 4"),
            RUBRIC.replace("Score 3:", "Grade 3:"),
            RUBRIC.replace("3 words", ""),
            RUBRIC.replace("Score 1", "Score 9").replace("Score 5", "Score 1").replace("Score 9", "Score 5"),
            RUBRIC.replace("[Is it short?]", "[]"),
        ],
    )
    def test_wrong_ones(self, wrong):
        """In distilabel 1.5.3: four times `Score 1:` was a valid rubric."""
        with pytest.raises(ValidationError, match="rubric 'mine' must be"):
            PrometheusEval(rubric="mine", rubrics={"mine": wrong})

    def test_unknown_rubric(self):
        """Found when the DAG is written, not when the first row is asked about."""
        with pytest.raises(ValidationError, match="no rubric 'mine'; rubrics has helpfulness, "):
            PrometheusEval(rubric="mine")


class TestReader:
    @pytest.mark.parametrize(
        "verdict",
        [" 4", "4", " 4.", " (4)", " 4</s>", " 4/5", " **4**", "\n4", ": 4", " [4]", " <4>", " four", " 4\n", " Score 4"][:-1],
    )
    def test_forms_of_a_grade(self, verdict):
        """In distilabel 1.5.3: a full stop or a bracket beside the number lost feedback and result."""
        assert read(f"It is good.\n\n[RESULT]{verdict}") == (4, "It is good.")

    @pytest.mark.parametrize(
        "mark", ["[RESULT]", "[Result]", "[SCORE]", "[RESULT:", "**[RESULT]**", "[ result ]:", "\nResult:", "\n**Score:**"]
    )
    def test_forms_of_the_marker(self, mark):
        """In distilabel 1.5.3: `[SCORE] 4` was nothing."""
        assert read(f"It is good. {mark} 4") == (4, "It is good.")

    @pytest.mark.parametrize("prefix", ["Feedback: ", "###Feedback: ", "**Feedback:** ", "\n\nfeedback:\n"])
    def test_feedback_without_its_label(self, prefix):
        """The prompt's last words, said again."""
        assert read(f"{prefix}It is good. [RESULT] 4") == (4, "It is good.")

    def test_quoted_json_is_no_verdict(self):
        """What the judged answer prints was taken for the grade, and the row was ok."""
        for text in ('It prints {"result": 1} and stops. [RESULT] 5', 'Result: 5\nIt prints {"result": 1}.'):
            assert read(text)[0] == 5
        assert read('Final verdict:\n{"feedback": "Good.", "result": 5}') == (5, "Good.")
        assert read('It prints {"result": "A"}. [RESULT] B', "relative")[0] == "B"

    def test_last_result_counts(self):
        """In distilabel 1.5.3: a second [RESULT] lost both."""
        assert read('The form is "(feedback) [RESULT] (a number)". Not [RESULT] 2. [RESULT] 4')[0] == 4

    @pytest.mark.parametrize(
        "verdict", ["", " 0", " 6", " 45", " 4.5", " 3 or 4", " 3-4", " 8/10", " good", " (a whole number from 1 to 5)", " A"]
    )
    def test_no_grade(self, verdict):
        """Nothing is made of what is not on the scale, and no earlier mention stands in for it."""
        assert unread(f"[RESULT] 2? No. [RESULT]{verdict}")["feedback"].startswith("[RESULT] 2? No.")

    @pytest.mark.parametrize("text", ["", None, "It is good.", "Result", "4"])
    def test_no_result(self, text):
        """What there is of a feedback is kept."""
        assert unread(text) == {"feedback": text or None}

    def test_verdict_alone_and_feedback_after_it(self):
        """The verdict holds."""
        assert read("[RESULT] 4") == (4, None)
        assert read("[RESULT] 4\nFeedback: It is good.") == (4, "It is good.")

    @pytest.mark.parametrize(
        "verdict",
        [
            " A",
            "A",
            " A.",
            " (A)",
            " A</s>",
            " **A**",
            "\nA",
            ": A",
            " [A]",
            " a",
            " Response A",
            " Response A is better.",
            " **Response A**",
            " A wins",
        ],
    )
    def test_forms_of_a_choice(self, verdict):
        """In distilabel 1.5.3: all but the bare letter lost feedback and result."""
        assert read(f"Short. [RESULT]{verdict}", "relative") == ("A", "Short.")
        assert read(f"Short. [RESULT]{verdict.replace(' A', ' B')}".replace("]A", "]B").replace("\nA", "\nB"), "relative")[
            0
        ] in {"A", "B"}

    @pytest.mark.parametrize(
        "verdict",
        [
            "",
            " C",
            " A tie",
            " A and B",
            " A or B",
            " A/B",
            " both",
            " neither A nor B",
            " not A",
            " 4",
            " A is worse",
            " Response A and Response B",
            " AB",
            " A, B",
        ],
    )
    def test_no_choice(self, verdict):
        """In "A tie" the A is an article."""
        unread(f"Short. [RESULT] B? No. [RESULT]{verdict}", "relative")

    @pytest.mark.parametrize(
        ("mode", "value", "expected"),
        [("absolute", 4, 4), ("relative", "B", "B"), ("absolute", 6, None), ("relative", "C", None)],
    )
    def test_json(self, mode, value, expected):
        """The same answer in the other form."""
        text = "```json\n" + json.dumps({"feedback": "See [RESULT] 1.", "result": value}) + "\n```"
        if expected:
            assert read(text, mode) == (expected, "See [RESULT] 1.")
        else:
            assert unread(text, mode) == {"feedback": "See [RESULT] 1."}

    @given(st.one_of(st.text(), st.text(alphabet='[RESULT] 145AB.\n*:/{}"')), st.sampled_from(["absolute", "relative"]))
    def test_hostile_answers(self, text, mode):
        """Never an exception but Unparsed, never a value off the scale."""
        try:
            result, _ = read(text, mode)
        except Unparsed as unparsed:
            result, _ = None, unparsed.partial["feedback"]
        assert result in {None, *((1, 2, 3, 4, 5) if mode == "absolute" else "AB")}

    @given(
        st.lists(
            st.sampled_from(["Good.", "[RESULT] 1", "Score: 2", "It has 3 parts", "[RESULT] A", "Response B is long.", "\n"]),
            max_size=5,
        ),
        st.sampled_from([("absolute", "5"), ("absolute", "9"), ("relative", "B"), ("relative", "none")]),
    )
    def test_the_last_one_or_none(self, prose, verdict):
        """Whatever was said before, another verdict than the last is never taken."""
        mode, said = verdict
        text = " ".join([*prose, f"[RESULT] {said}"])
        if said in {"5", "B"}:
            assert str(read(text, mode)[0]) == said
        else:
            unread(text, mode)


class TestSwap:
    def talk(self, *rounds, **fields):
        """Hold the conversation; each round is the answers to the requests of it."""
        task = PrometheusEval(mode="relative", swap=True, **fields)
        conversation = task.converse(ROW, Random(0))
        asked = [next(conversation)]
        try:
            for answers in rounds:
                asked.append(conversation.send([Answer(text=text) for text in answers]))
        except StopIteration as end:
            return end.value, asked
        raise AssertionError(asked[-1])

    def test_both_orders_are_asked(self):
        """At once, as two conversations that know nothing of each other."""
        columns, asked = self.talk(["x [RESULT] A", "y [RESULT] B"])
        first, second = (chat.messages[0]["content"] for chat in asked[0])
        assert "A:\nhi\n\n###Response B:\nhello" in first
        assert "A:\nhello\n\n###Response B:\nhi" in second
        assert columns == {"feedback": "x", "result": "A", "feedbacks": ["x", "y"], "results": ["A", "A"]}

    def test_a_judge_that_prefers_a_position_has_no_result(self):
        """Its bias was counted as a preference; and a disagreement is no answer that could not be read."""
        columns, _ = self.talk(["x [RESULT] A", "y [RESULT] A"])
        assert columns == {"feedback": "x", "result": None, "feedbacks": ["x", "y"], "results": ["A", "B"]}

    def test_only_the_one_that_cannot_be_read_is_asked_again(self):
        """The other was paid for twice, or nothing was asked again."""
        columns, asked = self.talk(["x [RESULT] B", "y"], ["y [RESULT] A"])
        assert (len(asked[1]), columns["result"], columns["feedbacks"]) == (1, "B", ["x", "y"])
        assert "A:\nhello" in asked[1][0].messages[0]["content"]
        assert "cannot be used: there is no verdict" in asked[1][0].messages[2]["content"]

    @pytest.mark.parametrize("retries", [0, 1, 2])
    def test_retries_end(self, retries):
        """`max_parse_retries` holds here, too; what one order gave is kept."""
        answers = [["x [RESULT] B", "y"], *[["y"]] * retries]
        with pytest.raises(Unparsed, match=r"^swapped: there is no verdict") as caught:
            self.talk(*answers, max_parse_retries=retries)
        assert caught.value.partial == {"feedback": "x", "result": None, "feedbacks": ["x", "y"], "results": ["B", None]}

    def test_engine(self, tmp_path):
        """Types and statuses, over the real driver; with structured output."""
        lab = Lab(tmp_path)

        def say(prompt, time):
            return json.dumps({"feedback": "f", "result": "A" if "A:\nlong" in prompt or "biased" in prompt else "B"})

        try:
            rows = [
                {"instruction": "fair", "generations": ["long", "short"]},
                {"instruction": "fair", "generations": ["short", "long"]},
                {"instruction": "biased", "generations": ["same", "same"]},
                {"instruction": "fair", "generations": ["one"]},
            ]
            task = PrometheusEval(mode="relative", swap=True, structured_output=True)
            done = lab.run(rows, Model(say), task)
            assert [(row["result"], row["results"]) for row in done] == [
                ("A", ["A", "A"]),
                ("B", ["B", "B"]),
                (None, ["A", "B"]),
                (None, None),
            ]
            assert [row["distil_status"] for row in done] == ["ok", "ok", "ok", "failed"]
            assert [len(row["distil_metadata"]) for row in done] == [2, 2, 2, 0]
        finally:
            lab.close()

    def test_not_for_one_answer(self):
        """It has no order."""
        with pytest.raises(ValidationError, match="swap is for mode 'relative'"):
            PrometheusEval(swap=True)


# What the package of the model's authors defines, in other words.
PACKAGE = """
ABS_SYSTEM_PROMPT = "one"
REL_SYSTEM_PROMPT = "two"
ABSOLUTE_PROMPT = "{instruction}|{response}|{reference_answer}|{rubric}"
ABSOLUTE_PROMPT_WO_REF = "{instruction}|{response}|{rubric}"
RELATIVE_PROMPT = "{instruction}|{response_A}|{response_B}|{reference_answer}|{rubric}"
RELATIVE_PROMPT_WO_REF = "{instruction}|{response_A}|{response_B}|{rubric}"
"""


class TestReferencePrompts:
    @pytest.fixture(autouse=True)
    def _forget(self):
        prometheus_eval._reference_prompts.cache_clear()
        yield
        prometheus_eval._reference_prompts.cache_clear()

    @pytest.fixture
    def package(self, tmp_path, monkeypatch):
        folder = tmp_path / "prometheus_eval"
        folder.mkdir()
        (folder / "__init__.py").write_text("raise ImportError('the inference stack')")
        (folder / "prompts.py").write_text(PACKAGE)
        monkeypatch.syspath_prepend(str(tmp_path))
        return folder

    def test_their_prompts_are_used_word_for_word(self, package):
        """Without importing the package itself, which needs an inference stack; braces in a text are left alone."""
        rubrics = {"short": RUBRIC}
        fields = {"prompts": "prometheus-eval", "rubrics": rubrics, "rubric": "short"}
        row = {**ROW, "instruction": "{x} {{ y }}"}
        PrometheusEval(**fields).check()
        assert prompt(row, **fields) == f"one\n{{x}} {{{{ y }}}}|hi|{RUBRIC}"
        assert prompt(row, **fields, reference=True) == f"one\n{{x}} {{{{ y }}}}|hi|good day|{RUBRIC}"
        assert prompt(row, **fields, mode="relative") == "two\n{x} {{ y }}|hi|hello|[Is it short?]"
        assert prompt(row, **fields, mode="relative", reference=True) == "two\n{x} {{ y }}|hi|hello|good day|[Is it short?]"

    def test_missing_package(self, monkeypatch):
        """A ModuleNotFoundError for each row, after the first of them."""
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(TaskDefinitionError, match="pip install --no-deps prometheus-eval"):
            PrometheusEval(prompts="prometheus-eval").format_input(ROW)
        assert PrometheusEval().format_input(ROW)

    def test_package_without_these_prompts(self, package):
        """Another version, or another package of that name."""
        (package / "prompts.py").write_text("ABS_SYSTEM_PROMPT = 'one'")
        with pytest.raises(TaskDefinitionError, match=r"0\.1\.20 or newer"):
            PrometheusEval(prompts="prometheus-eval").format_input(ROW)

    @pytest.mark.parametrize("other", [{"template": "x"}, {"structured_output": True}])
    def test_they_stand_alone(self, other):
        """One of two prompts was silently ignored."""
        with pytest.raises(ValidationError, match="leave out one of the two"):
            PrometheusEval(prompts="prometheus-eval", **other)
