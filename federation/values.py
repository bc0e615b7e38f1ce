"""The base of every frozen value that is read from outside: documents, manifests."""

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """A frozen, validated value; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
