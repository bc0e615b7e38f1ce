"""What a request is about: the line, branch, round and version that it names."""

from collections.abc import Mapping
from typing import Any

from federation.iodeep.manifest import VersionManifest, parse_manifest
from federation.messages import (
    CensusRequest,
    EvaluateRequest,
    ReleaseOffer,
    StatisticsRequest,
    TrainRequest,
)

Request = TrainRequest | StatisticsRequest | EvaluateRequest | CensusRequest | ReleaseOffer

REQUESTS: Mapping[str, type[Request]] = {
    kind.__name__: kind
    for kind in (TrainRequest, StatisticsRequest, EvaluateRequest, CensusRequest, ReleaseOffer)
}


def subject_of(request: Request) -> dict[str, Any]:
    """Line, branch, round and version, by these names, those that there are.

    Raises :class:`~federation.errors.CodecError` where the manifest that came cannot be read.
    """
    if isinstance(request, CensusRequest):
        return {"line": str(request.line)}
    if isinstance(request, TrainRequest | StatisticsRequest):
        return {
            "line": str(request.line),
            "branch": request.branch,
            "round": request.round,
            "version": request.start.uid,
        }
    manifest = parse_manifest(request.manifest.encode())
    named = {"line": str(manifest.line), "branch": manifest.branch, "round": manifest.round}
    return named | ({"version": manifest.uid} if isinstance(manifest, VersionManifest) else {})
