"""From Airflow connections and contexts to what the engine works with."""
