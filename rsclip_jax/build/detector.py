"""The remote-sensing detector: a logistic regression on the embeddings of a CLIP model."""

import dataclasses
import json
from typing import Any

import numpy as np
from scipy.special import expit

from rsclip_jax.build import files


@dataclasses.dataclass(frozen=True)
class Detector:
    """What `train_detector` has fitted.

    Attributes:
      weights: [D]; bias: the logit of remote sensing is `z @ weights + bias`, z of length 1.
      model: path of the model that made the embeddings when it was fitted.
      params_sha256: of its parameters, see `rsclip_jax.embeddings.params_digest`.
      told: what it was fitted with, and how good it is.
    """

    weights: list[float]
    bias: float
    model: str
    params_sha256: str
    told: dict[str, Any] = dataclasses.field(default_factory=dict)

    def probability(self, z: np.ndarray) -> np.ndarray:
        """Return P(remote sensing), float64 [N], of embeddings [N, D] of length 1."""
        return expit(z.astype(np.float64) @ np.array(self.weights) + self.bias)

    def check(self, params: Any, path: str) -> None:
        """Raise ValueError unless it was fitted on embeddings by these parameters."""
        from rsclip_jax.embeddings import params_digest

        if params_digest(params) != self.params_sha256:
            raise ValueError(
                f"the detector was fitted on the embeddings of {self.model}, and {path} has other "
                "parameters: name that model as the detector's, or fit a detector on this one "
                "(python -m rsclip_jax.build.train_detector)"
            )

    def write(self, path: str) -> None:
        """Write it to a JSON file."""
        files.write(path, (json.dumps(dataclasses.asdict(self), indent=1) + "\n").encode())

    @classmethod
    def read(cls, path: str) -> "Detector":
        """Read the JSON file.

        Raises:
          FileNotFoundError: there is none.
          ValueError: it holds something else.
        """
        try:
            return cls(**json.loads(files.read_text(path)))
        except (ValueError, RecursionError, TypeError) as error:
            raise ValueError(
                f"{path} is no detector, a file that rsclip_jax.build.train_detector writes: "
                f"{error}"
            ) from error
