"""The science of the platform as a plain library: imagery, labels, datasets, encoders, training, maps.

Knows no Prefect, no MLflow, no DVC and no database; a scientist can use it in a notebook.
"""
