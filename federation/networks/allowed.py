"""The allow-list: every network that may be built, and an architecture's arguments checked."""

import difflib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from federation.errors import ModelError
from federation.iodeep.architecture import NETWORK_OF_LAYERS, Architecture
from federation.networks.arguments import (
    DenseNetArguments,
    DynUNetArguments,
    NetworkArguments,
    SegResNetArguments,
    UNetArguments,
)
from federation.networks.layers import LayerArguments

_SHOWN = 5  # problems in one message

NETWORKS: Mapping[str, type[NetworkArguments]] = {
    NETWORK_OF_LAYERS: LayerArguments,
    "monai.DenseNet": DenseNetArguments,
    "monai.DynUNet": DynUNetArguments,
    "monai.SegResNet": SegResNetArguments,
    "monai.UNet": UNetArguments,
}


def read_arguments(architecture: Architecture) -> NetworkArguments:
    """The checked arguments of an architecture, nothing built yet.

    Raises :class:`ModelError` for a network that is not on the list and for arguments of
    wrong name, type, bounds or number; all of them in one message.
    """
    kind = NETWORKS.get(architecture.network)
    if kind is None:
        raise ModelError(
            f"unknown network {architecture.network!r}{_nearest(architecture.network, NETWORKS)}; "
            f"this software builds {', '.join(NETWORKS)}"
        )
    try:
        # As JSON, because in pydantic's strict mode only there a list may become a tuple.
        document = json.dumps(architecture.arguments)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"the arguments of {architecture.network} are no JSON document") from error
    try:
        return kind.model_validate_json(document)
    except ValidationError as error:
        # A union reports each of its members: one line an argument is enough.
        problems = {_argument(problem): _explain(kind, problem) for problem in error.errors()[::-1]}
        listed = "; ".join(problems[name] for name in sorted(problems)[:_SHOWN])
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ModelError(
            f"network {architecture.network} cannot be built: {listed}{more}"
        ) from None


def _argument(problem: Any) -> str:
    return str(problem["loc"][0]) if problem["loc"] else ""


def _explain(kind: type[NetworkArguments], problem: Any) -> str:
    name = _argument(problem)
    shown = f"{name!r:.60}"
    if problem["type"] == "extra_forbidden" and name not in kind.model_fields:
        return f"unknown argument {shown}{_nearest(name, kind.model_fields)}"
    if problem["type"] == "missing" and len(problem["loc"]) == 1:
        return f"argument {shown} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if not name:
        return str(message)
    path = ".".join(str(step) for step in problem["loc"][1:] if isinstance(step, int))
    return f"argument {name}{'.' if path else ''}{path}: {message}, seen {problem['input']!r:.60}"


def _nearest(name: str, valid: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
