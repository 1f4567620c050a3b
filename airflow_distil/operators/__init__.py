"""Airflow operators: one thin class per task."""

from airflow_distil.operators.base import DistilOperator
from airflow_distil.operators.text import ChatGenerationOperator, TextGenerationOperator

__all__ = ["ChatGenerationOperator", "DistilOperator", "TextGenerationOperator"]
