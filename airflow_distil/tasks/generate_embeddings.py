"""Turn each text into a vector; DEITA (arXiv 2312.15685) measures the diversity of a dataset by such vectors."""

from __future__ import annotations

from random import Random

from airflow_distil.conversation import Answer, Conversation, Embed, Row, Unparsed, Vector
from airflow_distil.tasks.base import Task

__all__ = ["GenerateEmbeddings"]


class GenerateEmbeddings(Task):
    """Embed a text or a chat (as in DEITA, arXiv 2312.15685).

    Reads `text` (str, or messages in the OpenAI chat format). Writes `embedding` (32-bit floats; in lists of
    fixed size if all rows have one of the same size), as the model gives it: not normalised here.

    A connection with the backend `transformers` takes the last layer's hidden state of the last token of a local model, and
    texts as well as chats, which go through the model's chat template. With an API (`/embeddings`) the input must be text;
    `generation_kwargs={"dimensions": 256}` and the like go there. Either way many rows are embedded together. An empty text has
    no embedding: its row fails.
    """

    has_json_form = False
    output_types = {"embedding": Vector}

    @property
    def inputs(self) -> list[str]:
        return ["text"]

    @property
    def outputs(self) -> list[str]:
        return ["embedding", "model_name"]

    def converse(self, input: Row, rng: Random) -> Conversation:  # noqa: ARG002 - nothing is chosen
        text = input["text"]
        if isinstance(text, list) and text and all(isinstance(each, dict) and "role" in each for each in text):
            # A column of structs has every field in every message; what a message does not have is null there.
            text = [{name: value for name, value in each.items() if value is not None or name == "content"} for each in text]
        elif not isinstance(text, str):
            raise TypeError(f"`text` must be text or a list of chat messages, not {type(text).__name__}")
        elif not text.strip():
            raise ValueError("`text` is empty")
        answer: Answer = yield Embed(text)
        if not answer.vector:
            raise Unparsed("the model gave no embedding")
        return {"embedding": list(answer.vector)}
