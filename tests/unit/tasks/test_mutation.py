"""One mutation: what is asked, and what is read out of whatever a model says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_distil.conversation import Answer, Unparsed
from airflow_distil.tasks.frames import PROMPTS, RESPONSES
from airflow_distil.tasks.mutation import ask_for_answers, ask_for_text, check_mutations, choose, read_evolution

OLD = "Write a poem about the sea."
NEW = "Write a sonnet about the sea at night: name two ships."


def read(text, previous=OLD, frame=PROMPTS, **more):
    return read_evolution(text, previous, frame, **more)


CHATTY = [
    "{}",
    "\n\n  {}  \n",
    "#Rewritten Prompt#: {}",
    "#Rewritten Prompt#:\n{}",
    "#The Rewritten Prompt#:\n\n{}",
    "# Rewritten Prompt #\n{}",
    "#Rewritten Prompt#\n{}",
    "**Rewritten Prompt:** {}",
    "**Rewritten Prompt**: {}",
    "**#Rewritten Prompt#:**\n{}",
    "## Rewritten Prompt\n\n{}",
    "## Rewritten Prompt:\n{}",
    "**Rewritten Prompt**\n\n{}",
    "> Rewritten prompt: {}",
    "rewritten prompt: {}",
    "REWRITTEN PROMPT:\n{}",
    "#Created Prompt#:\n{}",
    "New prompt: {}",
    "## New Prompt\n\n{}",
    "Rewritten prompt：{}",
    "Here is the new prompt: {}",
    "I have rewritten the prompt to be harder.\n\nRewritten prompt: {}",
    "Sure! Let me add a condition:\n\nImproved prompt: {}",
    f"Given prompt: {OLD}\n\nRewritten prompt: {{}}",
    f"Original:\n{OLD}\nHere is the improved prompt:\n{{}}",
    "{}\n\nExplanation: I added the ships.",
    "{}\n\n**Explanation:** it is deeper now.",
    "{}\n\n(I added a condition.)",
    "{}\n\nNote: I kept the sea.",
    "{}\n\n(Note: this version is harder.)",
    "{}\n\nI added a requirement\nand made it harder.",
    '"{}"\n\nI have made the prompt more specific.',
    "```\n{}\n```\n\nExplanation: two ships.",
    "Improved instruction: {}",
    "Prompt: {}",
    "**Prompt:** {}",
    "#Prompt#: {}",
    "Sure! {}",
    "Certainly!\n\n{}",
    "Sure! Here's the #Rewritten Prompt#:\n\n{}",
    "Sure, here is the rewritten prompt:\n\n{}",
    "Of course! Here’s the rewritten prompt with an added constraint:\n{}",
    "Here is a more complex version:\n\n{}",
    "Here is the rewritten prompt: {}",
    "I'm sorry for the confusion. Here is the rewritten prompt:\n{}",
    '"{}"',
    "“{}”",
    "`{}`",
    "*Rewritten Prompt:* {}",
    "```\n{}\n```",
    "```text\n{}\n```",
    '#Rewritten Prompt#:\n"{}"',
    "#Rewritten Prompt#:\n```\n{}\n```",
    "```\n#Rewritten Prompt#:\n{}\n```",
    f"#The Given Prompt#:\n{OLD}\n\n#Rewritten Prompt#:\n{{}}",
    "#Rewritten Prompt#:\nWrite an ode to the sea.\n\n#Rewritten Prompt#:\n{}",
    "The given prompt is short. #Rewritten Prompt#: no.\n</think>\n\n{}",
    "<think>\nThe given prompt is short. #Rewritten Prompt#: no.\n</think>\n\n{}",
]  # fmt: skip


class TestRead:
    @pytest.mark.parametrize("form", CHATTY)
    def test_what_stands_around_a_text_is_no_part_of_it(self, form):
        """Labels and manners of a chatty model became part of the instruction, and grew with each evolution."""
        assert read(form.format(NEW)) == NEW

    def test_a_line_in_bold_is_a_line(self):
        """And one with bold words in it keeps them."""
        assert read(f"**{NEW}**") == NEW
        assert read("**Write** a sonnet **now**") == "**Write** a sonnet **now**"

    @pytest.mark.parametrize(
        "form",
        [
            "{}", "#Rewritten Response#: {}", "**Rewritten Response:**\n{}", "Here is the improved response:\n\n{}",
            "Response: {}", "#Given Prompt#:\nq\n#Given Response#:\na\n#Rewritten Response#:\n{}",
        ],
    )  # fmt: skip
    def test_responses_have_their_own_label(self, form):
        """Distilabel 1.5.3: a `#Rewritten Response#:` stays in the response."""
        assert read(form.format("The sea is blue, and cold."), "The sea is blue.", RESPONSES) == "The sea is blue, and cold."

    @pytest.mark.parametrize(
        "text",
        [
            "Sure! Here is a version of your mail:\n\nDear Ann, …",
            "```python\nprint(2)\n```",
            "I'm sorry to hear of your loss. Take your time.",
            "I cannot say enough about it: it is the best of books.",
            'He said: "yes"',
            '"Yes" or "no"',
        ],
    )
    def test_what_belongs_to_a_text_stays(self, text):
        """Whoever strips too much loses a greeting, a fence of code, or the quotes of a quotation."""
        assert read(text, "Before.", RESPONSES) == text

    @pytest.mark.parametrize(
        ("previous", "new"),
        [
            ("Prompt: a cat.\nDescribe it.", "Prompt: a cat and a dog.\nDescribe both."),
            ("**Bold**", "**Bold and big**"),
            ('"Carpe diem"', '"Carpe noctem"'),
            ("```\n1 + 1\n```", "```\n1 + 1 + 1\n```"),
            ("Rewritten prompt: x. Rate it.", "Rewritten prompt: x y. Rate it, with reasons."),
            ("I can't answer calls. Help!", "I can't answer calls on my old phone. Help!"),
            ("Sure! Say it in French.", "Sure! Say it in French and in Latin."),
        ],
    )
    def test_what_was_there_before_is_the_texts_own(self, previous, new):
        """A text that itself begins with a label or stands in quotes was cut a little more at each evolution."""
        assert read(new, previous) == new
        assert read(f"#Rewritten Prompt#:\n{new}", previous) == new

    @pytest.mark.parametrize(
        ("text", "frame"),
        [
            ("Write a chatbot that answers these.\nNew request: GET /index\nThen respond.", PROMPTS),
            ("New request: GET /index\nRespond as a server.", PROMPTS),
            ("Write two mails.\n\n**New request:** a refund\n\nThen a third.", PROMPTS),
            ("Improve my question.\nHere is the updated question: how tall is he?", PROMPTS),
            ("Your answer was too short.\n\nImproved answer: the sea is blue.", RESPONSES),
            ("I have a draft of yours.\nImproved answer:\nthe sea is blue.", RESPONSES),
            ("Your draft lacks a date.\n\nHere's the revised response:\n\nDear Ann, …", RESPONSES),
        ],
    )
    def test_a_label_inside_a_text_is_a_line_of_it(self, text, frame):
        """What stood before "New request:" or "Improved answer:" was dropped, and the row was ok."""
        assert read(text, frame=frame) == text

    def test_a_label_without_a_mark_behind_a_text_is_no_label(self):
        """The half behind it became the prompt, and the half before it was lost."""
        with pytest.raises(Unparsed, match="stand by itself"):
            read("Write a poem on ships.\nRewritten prompt: GET /index")

    @pytest.mark.parametrize(
        ("text", "frame"),
        [
            ("Help me bake.\n\nI made a cake, and it fell in.", PROMPTS),
            ("Help me bake.\n\nI added more flour to the original dough. Was that wrong?", PROMPTS),
            ("Write a sonnet.\n\nNote: use at most 100 words.", PROMPTS),
            ("Write a sonnet.\n\n(I am 12.)", PROMPTS),
            ("It is 12.\n\nExplanation: 3 times 4 is 12.", RESPONSES),
            ("print(2)\n\nI added a check for None.", RESPONSES),
            ("Take two.\n\nNote: ask a doctor first.", RESPONSES),
        ],
    )
    def test_a_last_paragraph_about_anything_else_stays(self, text, frame):
        """A condition, or the point of an answer, was taken for a remark about the change, and lost."""
        assert read(text, frame=frame) == text

    def test_a_remark_that_the_text_had_before_stays(self):
        """An explanation that belongs to the prompt was lost at the first evolution."""
        text = "Rate it, with reasons.\n\nExplanation: I added Y."
        assert read(text, "Rate it.\n\nExplanation: I added Y.") == text

    @pytest.mark.parametrize(
        ("text", "frame"),
        [("It is so.\n\nI added details to the response.", RESPONSES), ("It is so.\n\n(I made it longer.)", RESPONSES)],
    )
    def test_a_remark_about_the_response_is_cut(self, text, frame):
        """A response that speaks of how it was improved."""
        assert read(text, frame=frame) == "It is so."

    @pytest.mark.parametrize(
        "text", [None, "", " \n", "...", "#Rewritten Prompt#:", "``````", "```\n\n```", '""', "<think>x</think>", "<think>x"]
    )
    def test_empty(self, text):
        """Distilabel 1.5.3: None is an AttributeError, and costs the whole batch; an empty text is evolved further."""
        with pytest.raises(Unparsed, match="no text"):
            read(text)

    @pytest.mark.parametrize(
        "text",
        [
            "I'm sorry, but I can't help with that.",
            "I’m sorry, I cannot rewrite this prompt.",
            "Sorry.",
            "I apologize, but this is too vague.",
            "I cannot assist with that request.",
            "Unfortunately, I am unable to rewrite it.",
            "I'm not able to provide that.",
            "As an AI language model, I do not have opinions.",
            "Please provide the prompt that I should rewrite.",
            "#Rewritten Prompt#:\nI'm sorry, but I can't help with that.",
            "I can't help with that. Is there anything else I can help you with?",
            "I cannot fulfill your request. It is illegal.",
            "I'm unable to rewrite the given prompt because it is harmful. Ask for another.",
            "I'm sorry, but the prompt is too vague. Please say more.",
            "I can't generate a more complex version of this prompt. Choose another.",
            "I cannot create content that promotes violence.",
            "I can't assist with creating that.",
            "I won't do that.",
        ],
    )
    def test_refusal(self, text):
        """An apology became the instruction, and was evolved into a longer one."""
        with pytest.raises(Unparsed, match="refusal"):
            read(text)

    @pytest.mark.parametrize(
        "text",
        [
            "As an AI researcher, explain attention.",
            "I cannot sleep at night. What may help?",
            "I cannot create a pivot table in Excel. What do I do wrong?",
            "I can't process my refund. Write to the shop.",
            "I can't process my refund…",
            "We apologize for the delay — write it so that it is polite.",
            "I can't do this exercise: 3 + 4. Help me.",
            "I'm sorry, but my order never arrived. Write a complaint.",
            "I can't help it, I love cats. Name ten.",
            "Please provide a prompt for Midjourney with a cat in it.",
            "Why do people say sorry? " + "Explain. " * 5,
            "I'm sorry, but " + "this is the first line of a long letter that you are to continue. " * 10,
        ],
    )
    def test_no_refusal(self, text):
        """People write like this."""
        assert read(text) == text.strip()

    @pytest.mark.parametrize(
        "text",
        [
            "I cannot provide medical advice, but drink water and rest.",
            "As an AI, I have no feelings. However, joy is what people feel at a gift.",
            "I'm sorry, but I can't give advice, but drink water and rest.",
        ],
    )
    def test_a_response_that_goes_on_to_answer_is_no_refusal(self, text):
        """The answer behind a "but" was thrown away with what stood before it."""
        assert read(text, frame=RESPONSES) == text

    @pytest.mark.parametrize(
        "text",
        [
            "I can't help with that, but I can help with something else.",
            "I cannot provide that. However, feel free to ask me another question.",
            "I'm sorry, but I can't help with that.",
        ],
    )
    def test_an_offer_is_no_answer(self, text):
        """A polite refusal became the response."""
        with pytest.raises(Unparsed, match="refusal"):
            read(text, frame=RESPONSES)

    @pytest.mark.parametrize(
        ("previous", "new"),
        [
            ("Explain C.", "Explain C++."),
            ("What is 3 + 4?", "What is 3 - 4?"),
            ("Sort a list in C", "Sort a list in C#"),
            ("Is x > y?", "Is x >= y?"),
        ],
    )
    def test_a_symbol_is_a_change(self, previous, new):
        """Symbols were left out, so that evolutions of formulas and code were the same as before."""
        assert read(new, previous) == new

    @pytest.mark.parametrize(
        "text", [OLD, OLD.upper(), f'"{OLD}"', "#Rewritten Prompt#: Write a poem  about the sea", f"Sure! {OLD}"]
    )
    def test_unchanged(self, text):
        """Evolution that changes nothing but a full stop is paid, and counted, as one."""
        with pytest.raises(Unparsed, match="same as before"):
            read(text)

    @pytest.mark.parametrize(
        "text",
        [
            "Extend the given prompt by a ship.",
            "Write a sonnet.\n\nThis rewritten prompt asks for more.",
            "#Rewritten Prompt#: Write a sonnet.\n\n#Given Prompt#: x",
            "Answer the #Created  Prompt# below.",
        ],
    )
    def test_leak(self, text):
        """WizardLM leaves out what speaks of the frame; who answers it sees no frame."""
        with pytest.raises(Unparsed, match="stand by itself"):
            read(text)

    def test_words_of_the_frame_that_the_text_brought_along_are_no_leak(self):
        """A prompt about prompts could never be evolved."""
        before, after = "What is a rewritten prompt?", "What is a rewritten prompt, and why?"
        assert read(f"#Rewritten Prompt#: {after}", before) == after
        assert read(after, before) == after
        response = "A given prompt is what you were given, and no more."
        assert read(response, "It is yours.", RESPONSES, beside="What is a given prompt?") == response
        with pytest.raises(Unparsed, match="given prompt"):
            read(response, "It is yours.", RESPONSES, beside="What is it?")

    @given(st.text(alphabet="abc xyz\n.,;ü漢?", min_size=1), st.sampled_from(CHATTY))
    def test_any_text_in_any_form(self, new, form):
        """Well-formed and chatty answers give the text itself, to the letter."""
        new = f"Q {new.strip()} x"
        assert read(form.format(new)) == new

    @given(
        st.lists(
            st.sampled_from([*(form.format(NEW) for form in CHATTY), OLD, "sorry", "```", '"', "#", "**", "\n", "Prompt#:"])
        ),
        st.text(),
        st.text(),
        st.sampled_from([PROMPTS, RESPONSES]),
    )
    def test_any_answer_at_all(self, pieces, tail, previous, frame):
        """Truncated, doubled and hostile answers: a text that is there in the answer, or Unparsed; nothing else, ever."""
        text = "".join(pieces) + tail
        try:
            found = read_evolution(text, previous, frame)
        except Unparsed:
            return
        assert found in text
        assert found == found.strip()
        assert found

    def test_is_fast_for_what_is_long(self):
        """A pattern that backtracks stops the run at one row of a model that repeats itself."""
        for piece in (
            "# ",
            "here's ",
            "**",
            "\n> ",
            "rewritten ",
            "sorry ",
            "given #_",
            "I ",
            "\n\nNote: ",
            "\nImproved prompt: ",
            "I added ",
            "sorry but ",
            '"',
            "```\n",
            "the ",
        ):
            for frame in (PROMPTS, RESPONSES):
                try:
                    read_evolution(piece * 20_000, "x", frame)
                except Unparsed:
                    continue


def talk(conversation, *answers):
    """Tell a conversation its answers; return its requests and what it returned."""
    requests = [next(conversation)]
    for answer in answers:
        try:
            requests.append(conversation.send(answer))
        except StopIteration as end:
            return requests, end.value
    raise AssertionError("it asks for more")


class TestAsk:
    def test_again_with_the_reason(self):
        """Asked the same again, a model says the same again."""
        requests, text = talk(ask_for_text("evolve!", read, 1), Answer(OLD), Answer(NEW))
        assert text == NEW
        assert requests[0].messages == [{"role": "user", "content": "evolve!"}]
        assert [message["role"] for message in requests[1].messages] == ["user", "assistant", "user"]
        assert "the text is the same as before" in requests[1].messages[2]["content"]

    def test_a_text_that_breaks_off_is_none(self):
        """Half a sentence became an instruction, and nothing told it from a whole one."""
        cut = Answer(NEW, finish_reason="length")
        with pytest.raises(Unparsed, match="breaks off"):
            talk(ask_for_text("evolve!", read, 1), cut, cut)

    def test_no_more_often_than_told(self):
        """Each time is paid."""
        with pytest.raises(Unparsed):
            talk(ask_for_text("evolve!", read, 0), Answer(None))

    def test_answers_are_asked_at_once_and_the_empty_ones_again(self):
        """One after the other, ten answers take ten times as long; and an empty one must not move those after it."""
        asked = ask_for_answers(["a", "b", "c"], 1)
        requests, answers = talk(asked, [Answer("A"), Answer(" "), Answer("C")], [Answer("B")])
        assert [[chat.messages[0]["content"] for chat in each] for each in requests] == [["a", "b", "c"], ["b"]]
        assert answers == ["A", "B", "C"]
        _, answers = talk(ask_for_answers(["a", "b", "c"], 1), [Answer("A"), Answer(), Answer("C")], [Answer(None)])
        assert answers == ["A", None, "C"]

    def test_what_stands_twice_is_asked_once(self):
        """After a failed evolution the same text follows; the same question would be paid twice."""
        requests, answers = talk(ask_for_answers(["a", "a", "b"], 1), [Answer("A"), Answer("B")])
        assert len(requests[0]) == 2
        assert answers == ["A", "A", "B"]


class TestTemplates:
    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({}, "give at least one"),
            ({"A": "{{ prompt"}, r"'A'\]: the template is not valid Jinja2"),
            ({"A": "{{ prompt }} {{ words }}"}, "uses words"),
            ({"A": "{{ prompt }}", "B": "Make harder: <PROMPT>"}, r"'B'\]: the template never uses \{\{ prompt \}\}"),
        ],
    )
    def test_are_checked(self, given, message):
        """A template of another library, with <PROMPT> in it, asked the same of every row."""
        with pytest.raises(ValueError, match=message):
            check_mutations(given, ["prompt"])

    def test_kinds_are_chosen_whatever_their_order(self):
        """The same templates from a file with sorted keys are the same templates."""
        from random import Random

        kinds = ["B", "A", "C"]
        assert [choose(kinds, Random(n)) for n in range(9)] == [choose(sorted(kinds), Random(n)) for n in range(9)]
        assert {choose(kinds, Random(n)) for n in range(30)} == {"A", "B", "C"}
