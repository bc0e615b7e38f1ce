"""From a site's document to what is found, in the order in which one thing needs another."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from datetime import datetime

from clients.doctor.archives import ArchiveExamination
from clients.doctor.finding import Finding, Subject
from clients.doctor.labelled import examine_data
from clients.doctor.machine import examine_machine
from federation.config import Site
from federation.errors import ConfigError
from federation.pacs import Moved, open_gateway
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
    with ExitStack() as stack:
        images = yield from _reached("images", site.archives.images, site, moved, stack)
        if images is not None:
            yield from examine_data(site, images.gateway)
        if site.archives.of_models == site.archives.images:
            models = images and ArchiveExamination("models", images.gateway, images.limits)
        else:
            models = yield from _reached("models", site.archives.of_models, site, moved, stack)
        if models is not None:
            yield from models.store(part_bytes=part_bytes, scratch=site.work / "scratch")


def _reached(
    about: str, address: str, site: Site, moved: Moved, stack: ExitStack
) -> Generator[Finding, None, ArchiveExamination | None]:
    """An archive that lets us in and can be asked; nothing else can be tried with others."""
    limits = site.archives.limits
    try:
        gateway = stack.enter_context(open_gateway(address, limits=limits, moved=moved))
    except ConfigError as error:
        advice = "correct its address in [archives], or what that names"
        yield Subject(about=about).failed("address", error, advice)
        return None
    examination = ArchiveExamination(about, gateway, limits)
    return examination if (yield from examination.reach()) else None
