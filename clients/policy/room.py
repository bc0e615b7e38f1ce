"""How much of versions a site takes into its archive of models."""

from federation.config import StoreTable
from federation.errors import PolicyError
from federation.iodeep.manifest import VersionManifest
from federation.messages import Code
from federation.registry import Registry, bytes_of
from federation.sizes import size_text


def check_room(allowed: StoreTable, registry: Registry, version: VersionManifest) -> None:
    """Whether a version may be stored beside what the site's archive of models has already.

    One that is there already takes nothing more. Raises :class:`PolicyError`.
    """
    if allowed.versions is None and allowed.bytes is None:
        return
    same_round = registry.versions(version.line, version.branch, version.round)
    if any(one.uid == version.uid for one in same_round):
        return
    stored = registry.stored()
    there = sum(isinstance(one, VersionManifest) for one in stored)
    if allowed.versions is not None and there >= allowed.versions:
        raise PolicyError(
            f"{there} versions are here, and the policy allows {allowed.versions}; let old ones go "
            "in the archive, or raise policy.store.versions",
            Code.ROOM,
        )
    if allowed.bytes is not None:
        needed = bytes_of([*stored, version])
        if needed > allowed.bytes:
            raise PolicyError(
                f"with another version models would take {size_text(needed)} here, and the policy "
                f"allows {size_text(allowed.bytes)}; let old ones go in the archive, or raise "
                "policy.store.bytes",
                Code.ROOM,
            )
