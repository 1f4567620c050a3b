"""What to ask, and how to read the answer. One module per task, its templates beside it."""

from airflow_distil.conversation import Answer, Chat, ChatType, Complete, Conversation, Embed, Rank, Unparsed
from airflow_distil.tasks.base import Task
from airflow_distil.tasks.chat_generation import ChatGeneration
from airflow_distil.tasks.text_generation import TextGeneration

__all__ = [
    "Answer",
    "Chat",
    "ChatGeneration",
    "ChatType",
    "Complete",
    "Conversation",
    "Embed",
    "Rank",
    "Task",
    "TextGeneration",
    "Unparsed",
]
