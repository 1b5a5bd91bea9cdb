"""The MLflow ties: runs, model versions, aliases; how a champion came to be; how versions compare."""
