"""From a site's document to what is found, in the order in which one thing needs another."""

from collections.abc import Iterator
from datetime import datetime
from functools import partial

from clients.doctor.archives import ArchiveExamination
from clients.doctor.finding import Finding
from clients.doctor.labelled import examine_data
from clients.doctor.machine import examine_machine
from clients.doctor.room import examine_room
from clients.doctor.storage import examine_storage
from federation.config import Site
from federation.pacs import Moved
from federation.pacs.gateway import untold


def examine(
    site: Site, *, part_bytes: int, now: datetime, moved: Moved = untold
) -> Iterator[Finding]:
    """Look at a site's machine, archives and data, one finding at a time.

    part_bytes: of each of two weight parts that the models' archive is tried with; 0 leaves
                them out
    now:        the time, with its zone
    moved:      told of bytes to and from the archives

    Leaves a small series in the models' archive each time, and the large one once, under the
    patient ``IODEEP-DOCTOR``; they may be deleted.
    """
    yield from examine_machine(site, now=now)
    archives = site.archives
    archive = partial(ArchiveExamination, limits=archives.limits, now=now, moved=moved)
    store = partial(
        examine_storage,
        limits=archives.limits,
        part_bytes=part_bytes,
        scratch=site.work / "scratch",
    )
    with archive("images", archives.images) as images:
        if (yield from images.reach()):
            yield from examine_data(site, images.gateway)
            if archives.of_models == archives.images:
                yield examine_room(site.policy.store, images.gateway)
                yield from store(images.gateway)
    if archives.of_models != archives.images:
        with archive("models", archives.of_models) as models:
            if (yield from models.reach()):
                yield examine_room(site.policy.store, models.gateway)
                yield from store(models.gateway)
