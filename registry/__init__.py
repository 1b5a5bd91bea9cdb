"""What came from what: the tables, the MLflow and DVC ties, the audit, and the workspace's settings.

Imports the core only. Knows no Prefect and, outside the functions of `pyfunc_model`, no torch.
"""
