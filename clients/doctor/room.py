"""The room that a site's policy leaves for models."""

from clients.doctor.finding import Finding, Subject
from federation.config import StoreTable
from federation.errors import IODeepError
from federation.pacs import Gateway
from federation.registry import Registry
from federation.sizes import size_text

_MODELS = Subject(about="models")
_NEARLY = 0.9


def examine_room(allowed: StoreTable, gateway: Gateway) -> Finding:
    """What models take in their archive, beside what the policy allows them."""
    try:
        registry = Registry(gateway)
        taken, branches = registry.stored_bytes(), registry.branches()
    except IODeepError as error:
        return _MODELS.failed("room", error, "see whether the archive answers C-FIND and C-GET")
    seen = f"weights of {len(branches)} branches take {size_text(taken)}"
    if allowed.bytes is None:
        return _MODELS.passed("room", f"{seen}; the policy sets no limit ([policy.store] bytes)")
    seen += f" of the {size_text(allowed.bytes)} that the policy allows"
    advice = "raise policy.store.bytes, or let old versions go in the archive (docs/pacs.md)"
    if taken >= allowed.bytes:
        return _MODELS.failed("room", f"{seen}: no more is accepted", advice)
    if taken > _NEARLY * allowed.bytes:
        return _MODELS.warned("room", seen, advice)
    return _MODELS.passed("room", seen)
