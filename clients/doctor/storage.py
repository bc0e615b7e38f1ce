"""Whether an archive keeps what it is given, and gives it back bit for bit."""

import tempfile
import time
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path

from clients.doctor.finding import Finding, Subject
from clients.doctor.sample import PATIENT_ID, Sample, changes, study_uid, write_sample
from federation.errors import ConfigError, PacsError, PacsUnreachable, StorageError
from federation.pacs import DimseGateway, Gateway, Limits
from federation.pacs.address import DimseAddress, WebAddress, parse_address
from federation.pacs.dimse.channel import NoReport, NotOffered
from federation.sizes import size_text
from federation.whole import make_private

_MODELS = Subject(about="models")
_SMALL_BYTES = 4096
_RAW_DATA = "Raw Data Storage (1.2.840.10008.5.1.4.1.1.66) in explicit VR little endian"


def examine_storage(
    gateway: Gateway, *, limits: Limits, part_bytes: int, scratch: Path
) -> Iterator[Finding]:
    """Store series of the models' archive, small and large, and read them back.

    part_bytes: of each of two parts of the large one; 0 leaves it out
    scratch:    where they lie meanwhile
    """
    try:
        make_private(scratch)
        with tempfile.TemporaryDirectory(prefix="doctor-", dir=scratch) as folder:
            yield from _Storage(gateway, limits, Path(folder)).examine(part_bytes)
    except OSError as error:
        yield _MODELS.failed(
            "store",
            f"not tried to the end, as {scratch} cannot be written to: {error.strerror}",
            "see what is said of the disk, and run again",
        )


class _Storage:
    """An archive that is stored to from a folder."""

    def __init__(self, gateway: Gateway, limits: Limits, folder: Path) -> None:
        self._gateway = gateway
        self._limits = limits
        self._to = parse_address(gateway.address)
        self._folder = folder

    def examine(self, part_bytes: int) -> Iterator[Finding]:
        try:
            before = self._series()
        except PacsError as error:
            yield _MODELS.failed("find", error, "have it allow C-FIND of series to us")
            return
        small = write_sample(self._folder, instances=1, size=_SMALL_BYTES, name=uuid.uuid4().hex)
        if not (yield from self._keeps(small)):
            return
        yield from self._commits(small)
        if part_bytes:
            large = write_sample(self._folder, instances=2, size=part_bytes, name="large")
            yield from self._keeps(large, " of parts")
        yield self._still_there(before | {small.series})

    # --- one series -----------------------------------------------------------------------

    def _keeps(self, sample: Sample, which: str = "") -> Generator[Finding, None, bool]:
        """Whether a series is stored and comes back as it was."""
        if not (yield from self._stored(sample, f"store{which}")):
            return False
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            fetched = yield from self._retrieved(sample, f"retrieve{which}", Path(folder))
            if fetched is None:
                return False
            damage, harmless = changes(sample, fetched)
        if damage:
            yield _MODELS.failed(
                f"content{which}",
                f"it comes back otherwise than it was sent: {'; '.join(damage)}",
                f"have it keep what it is sent as it is, without coercion, for patients IODEEP*; "
                f"then delete what it has of {PATIENT_ID}, and run again",
            )
            return False
        notes = f" ({'; '.join(harmless)}: no harm)" if harmless else ""
        yield _MODELS.passed(f"content{which}", f"bit for bit, private elements and all{notes}")
        return True

    def _stored(self, sample: Sample, check: str) -> Generator[Finding, None, bool]:
        count = len(sample.paths)
        what = f"{count} x {size_text(sample.size // count)}"
        begin = time.perf_counter()
        try:
            self._gateway.store(sample.paths)
        except PacsUnreachable as error:
            yield _MODELS.failed(check, f"{what}: {error}", "its log says why it hung up")
            return False
        except PacsError as error:
            small = f"have it take {_RAW_DATA} from us, and give it room"
            large = "have it take instances of that size too, and give it room"
            yield _MODELS.failed(check, f"{what}: {error}", small if count == 1 else large)
            return False
        took = _time(sample, begin)
        try:
            missing = sample.digests.keys() - self._instances(sample)
        except PacsError as error:
            yield _MODELS.failed("find", error, "have it allow C-FIND of instances to us")
            return False
        if missing:
            small = f"have it keep {_RAW_DATA}, and not ignore it; its log says what became of it"
            large = "raise its quotas, also of a study or a patient; its log says what became of it"
            yield _MODELS.failed(
                check,
                f"{what}: it answered that it stored them, and does not have {len(missing)}",
                small if count == 1 else large,
            )
            return False
        yield _MODELS.passed(check, f"{what} in {took}")
        return True

    def _instances(self, sample: Sample) -> set[str]:
        keys = {"StudyInstanceUID": sample.study, "SeriesInstanceUID": sample.series}
        return {str(one.SOPInstanceUID) for one in self._gateway.find("IMAGE", keys)}

    def _retrieved(
        self, sample: Sample, check: str, folder: Path
    ) -> Generator[Finding, None, list[Path] | None]:
        begin = time.perf_counter()
        try:
            fetched = self._gateway.fetch(folder, study=sample.study, series=sample.series)
        except StorageError as error:  # of our own disk
            advice = "free some of the disk that has the folder named as work"
            yield _MODELS.failed(check, error, advice)
            return None
        except (PacsError, ConfigError) as error:
            seen = f"what it stored does not come back: {error}"
            yield _MODELS.failed(check, seen, self._retrieve_advice())
            return None
        took = _time(sample, begin)
        if not self._uses_move:
            way = {WebAddress: "WADO-RS", DimseAddress: "C-GET"}.get(type(self._to), "its folder")
            yield _MODELS.passed(check, f"by {way} in {took}")
        elif len(sample.paths) > 1:  # what there is to say was said of the small one
            yield _MODELS.passed(check, f"by C-MOVE in {took}")
        else:
            yield _MODELS.warned(
                check,
                f"by C-MOVE in {took}, as it has no C-GET for us; so only one process of ours can "
                "retrieve at a time",
                "have it allow C-GET to us, which needs no port of ours",
            )
        return fetched

    @property
    def _uses_move(self) -> bool:
        return isinstance(self._gateway, DimseGateway) and self._gateway.uses_move

    def _retrieve_advice(self) -> str:
        match self._to:
            case DimseAddress(calling=calling, listen=None):
                return f"have it allow C-GET to {calling}"
            case DimseAddress(calling=calling, listen=port):
                return (
                    f"have it allow C-GET to {calling}; or C-MOVE, and know that {calling} is at "
                    f"port {port} of this machine"
                )
            case WebAddress():
                return "have it allow WADO-RS to us, of instances of that size"
        return "see whether the folder's files can be read"

    # --- what it promises -----------------------------------------------------------------

    def _commits(self, sample: Sample) -> Iterator[Finding]:
        """Storage commitment is only worth trying where the archive can reach us."""
        gateway, to = self._gateway, self._to
        if not (isinstance(gateway, DimseGateway) and isinstance(to, DimseAddress) and to.listen):
            return
        try:
            gateway.commit(sample.paths)
        except StorageError as error:
            advice = "its log says why; until it does, what it has counts as not stored"
            yield _MODELS.failed("commitment", error, advice)
        except NoReport as error:
            yield _MODELS.warned(
                "commitment",
                f"{error}; whatever is stored will wait so long for one",
                f"have it know that {to.calling} is at port {to.listen} of this machine, and let "
                "it through firewalls; or leave out listen, which only C-MOVE needs beside it",
            )
        except NotOffered as error:
            yield _MODELS.passed("commitment", f"{error}, so it is asked instead")
        except (PacsError, ConfigError) as error:
            advice = "see what is said of listen, and whether the archive is still running"
            yield _MODELS.failed("commitment", error, advice)
        else:
            yield _MODELS.passed("commitment", "it commits itself to keep what it took")

    def _still_there(self, before: set[str]) -> Finding:
        try:
            gone = before - self._series()
        except PacsError as error:
            return _MODELS.failed("keeping", error, "see whether it is still running")
        if gone:
            return _MODELS.failed(
                "keeping",
                f"{len(gone)} series that were there a moment ago are gone: it makes room for "
                "new ones by dropping old ones, and says nothing of it",
                "raise its quotas, also of a study or a patient, or keep models in another archive",
            )
        return _MODELS.passed("keeping", "what was there before is there")

    def _series(self) -> set[str]:
        """The series of the samples' study."""
        study = study_uid()
        if not self._gateway.find("STUDY", {"StudyInstanceUID": study}):
            return set()  # an archive may refuse to look into what it does not have
        found = self._gateway.find("SERIES", {"StudyInstanceUID": study})
        return {str(one.SeriesInstanceUID) for one in found}


def _time(sample: Sample, begin: float) -> str:
    """How long something took, and how fast that is where there is much of it."""
    took_s = time.perf_counter() - begin
    megabytes = sample.size / 1e6
    return f"{took_s:.2f} s" + (f" ({megabytes / took_s:.0f} MB/s)" if megabytes > 1 else "")
