"""The code file that MLflow keeps beside a model's weights and runs when the model version is loaded.

    model = mlflow.pyfunc.load_model("models:/<project>@champion")
    model.predict({"sentinel2_l2a": cubes, "dates": dates})  # (B, K, H, W) probabilities

MLflow runs this file by its path ("models from code"), which is why it ends by handing over an instance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

FOLDER = "model"
"""Name of the artifact that is the model folder: weights.safetensors and card.json."""


class FineTuned:
    """A fine-tuned model.

    No PythonModel by itself: MLflow would complain that the arrays it takes have no type hints to make a schema of.
    """

    def load_context(self, context: Any) -> None:
        """Load weights and card."""
        from olmoearth_core.models.model_folder import load_model

        self.model = load_model(Path(context.artifacts[FOLDER]))

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Probability of each class at each pixel, or the estimate of a regression.

        Args:
            context: not used.
            model_input: modality -> (B, T, C, H, W) physical values, channels as in card.json, 0 where invalid;
                "dates": (B, T) datetime64[D] or ISO 8601 strings; "valid", not required: modality -> (B, T, H, W)
                bool, by default where no channel is 0, as in training (`imagery.mask`).
            params: not used.

        Returns:
            (B, K, H, W) float32, summing to 1 over K; (B, 1, H, W) of a regression, in its unit.
        """
        dates = np.asarray(model_input["dates"]).astype("datetime64[D]")
        inputs = {name: np.asarray(model_input[name]) for name in self.model.card.bands}
        valid = model_input.get("valid") or {name: (data != 0).all(axis=2) for name, data in inputs.items()}
        return self.model.predict(inputs, dates, {name: np.asarray(mask, bool) for name, mask in valid.items()})


class FineTunedModel(FineTuned, PythonModel):
    """The same, as MLflow takes it."""


set_model(FineTunedModel())
