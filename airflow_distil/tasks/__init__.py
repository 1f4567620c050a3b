"""What to ask, and how to read the answer. One module per task, its templates beside it."""

from airflow_distil.conversation import Answer, Chat, ChatType, Complete, Conversation, Embed, Rank, Unparsed, Vector
from airflow_distil.tasks.base import Task
from airflow_distil.tasks.chat_generation import ChatGeneration
from airflow_distil.tasks.complexity_scorer import ComplexityScorer
from airflow_distil.tasks.evol_generators import EvolComplexityGenerator, EvolInstructGenerator
from airflow_distil.tasks.evol_instruct import EvolComplexity, EvolInstruct
from airflow_distil.tasks.evol_quality import EvolQuality
from airflow_distil.tasks.generate_embeddings import GenerateEmbeddings
from airflow_distil.tasks.generator import GeneratorTask
from airflow_distil.tasks.genstruct import Genstruct
from airflow_distil.tasks.instruction_backtranslation import InstructionBacktranslation
from airflow_distil.tasks.pair_rm import PairRM
from airflow_distil.tasks.prometheus_eval import PrometheusEval
from airflow_distil.tasks.quality_scorer import QualityScorer
from airflow_distil.tasks.self_instruct import SelfInstruct
from airflow_distil.tasks.text_generation import TextGeneration
from airflow_distil.tasks.ultrafeedback import UltraFeedback

__all__ = [
    "Answer",
    "Chat",
    "ChatGeneration",
    "ChatType",
    "Complete",
    "ComplexityScorer",
    "Conversation",
    "Embed",
    "EvolComplexity",
    "EvolComplexityGenerator",
    "EvolInstruct",
    "EvolInstructGenerator",
    "EvolQuality",
    "GenerateEmbeddings",
    "GeneratorTask",
    "Genstruct",
    "InstructionBacktranslation",
    "PairRM",
    "PrometheusEval",
    "QualityScorer",
    "Rank",
    "SelfInstruct",
    "Task",
    "TextGeneration",
    "UltraFeedback",
    "Unparsed",
    "Vector",
]
