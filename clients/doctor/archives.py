"""A site's archives: reached, asked, written to and read back."""

import tempfile
import time
import uuid
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from clients.doctor.finding import Finding, Subject
from clients.doctor.sample import PATIENT_ID, Sample, changes, write_sample
from federation.errors import PacsError, PacsRefused, PacsUnreachable, StorageError
from federation.pacs import DimseGateway, Gateway, Limits, open_gateway
from federation.pacs.address import DimseAddress, FolderAddress, WebAddress, parse_address

_SMALL_BYTES = 4096
_LOCAL = ("127.0.0.1", "[::1]", "::1", "localhost")


class ArchiveExamination:
    """One of a site's archives, while it is open."""

    def __init__(self, about: str, gateway: Gateway, limits: Limits) -> None:
        self._subject = Subject(about=about)
        self.gateway = gateway
        self.limits = limits

    # --- reaching it ----------------------------------------------------------------------

    def reach(self) -> Generator[Finding, None, bool]:
        """Whether it answers, over what, and finds what is asked; returns whether it does."""
        failed = self._subject.failed
        begin = time.perf_counter()
        try:
            self.gateway.echo()
        except PacsRefused as error:
            yield failed("echo", error, "it was reached: see what its configuration wants of us")
            return False
        except PacsUnreachable as error:
            yield failed("echo", error, "check the address in [archives], and firewalls between")
            return False
        except PacsError as error:
            yield failed("echo", error, "something answers; check the address in [archives]")
            return False
        took_ms = (time.perf_counter() - begin) * 1000
        yield self._subject.passed("echo", f"{self.gateway.address} answers in {took_ms:.0f} ms")
        yield self._secured()
        try:
            found = self.gateway.find("STUDY", {"StudyInstanceUID": "", "PatientID": "IODEEP*"})
        except PacsError as error:
            yield failed("find", error, "let it allow C-FIND (or QIDO-RS) to us")
            return False
        yield self._subject.passed("find", f"{len(found)} studies of IODeep's patients")
        yield from self._several()
        return True

    def _secured(self) -> Finding:
        match parse_address(self.gateway.address):
            case FolderAddress():
                return self._subject.passed("tls", "not needed: no network is between")
            case WebAddress(url=url, tls=tls):
                host = url.split("://")[1].split("/")[0].rsplit(":", 1)[0]
            case DimseAddress(host=host, tls=tls):
                pass
        if tls is not None:
            sides = "of both sides" if tls.cert is not None else "of the archive"
            return self._subject.passed("tls", f"TLS, with a certificate {sides}")
        if host in _LOCAL:
            return self._subject.passed("tls", "not needed: nothing leaves this machine")
        return self._subject.warned(
            "tls",
            "none: names and images of patients travel readable for others",
            "have the archive speak TLS, and add tls=CA.crt to its address",
        )

    def _several(self) -> Iterator[Finding]:
        """Whether there are as many associations as the limits allow."""
        wanted = self.limits.associations
        if wanted == 1 or not isinstance(self.gateway, DimseGateway):
            return
        once = self.limits.model_copy(update={"attempts": 1, "timeout_s": 5.0})
        with ExitStack() as stack:
            others = [
                stack.enter_context(open_gateway(self.gateway.address, limits=once))
                for _ in range(wanted - 1)
            ]
            with ThreadPoolExecutor(len(others)) as pool:
                answered = 1 + sum(pool.map(_answers, others))
        if answered == wanted:
            yield self._subject.passed("associations", f"{answered} at once")
        else:
            yield self._subject.warned(
                "associations",
                f"{answered} at once, where [archives.limits] has {wanted}",
                f"have it allow more, or set associations = {answered}; fewer are slower",
            )

    # --- keeping things in it -------------------------------------------------------------

    def store(self, *, part_bytes: int, scratch: Path) -> Iterator[Finding]:
        """Whether it keeps what it is given, small and large, and gives it back bit for bit.

        part_bytes: of each of two parts; 0 leaves them out
        scratch:    where they lie meanwhile
        """
        scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="doctor-", dir=scratch) as name:
            folder = Path(name)
            small = write_sample(folder, instances=1, size=_SMALL_BYTES, name=uuid.uuid4().hex)
            before = self._series()
            if not (yield from self._keeps("store", small)):
                return
            yield from self._retrieving()
            yield from self._committing(small)
            if part_bytes:
                large = write_sample(folder, instances=2, size=part_bytes, name="large")
                yield from self._keeps("large parts", large)
            if gone := (before | {small.series}) - self._series():
                yield self._subject.failed(
                    "keeping",
                    f"{len(gone)} series that were there a moment ago are gone: it makes room for "
                    "new ones by dropping old ones, and says nothing of it",
                    "raise its quota of a study, or keep models in another archive",
                )
            else:
                yield self._subject.passed("keeping", "what was there before is there")

    def _keeps(self, check: str, sample: Sample) -> Generator[Finding, None, bool]:
        sizes = sum(path.stat().st_size for path in sample.paths)
        what = f"{len(sample.paths)} x {sizes / len(sample.paths) / 1e6:.3g} MB"
        begin = time.perf_counter()
        try:
            self.gateway.store(sample.paths)
            self.gateway.confirm(sample.paths)
        except StorageError as error:
            yield self._subject.failed(
                check, f"{what}: {error}", "let it take Raw Data Storage from us, and give it room"
            )
            return False
        except PacsError as error:
            yield self._subject.failed(check, f"{what}: {error}", "see whether it is still running")
            return False
        stored_s = time.perf_counter() - begin
        with tempfile.TemporaryDirectory(dir=sample.paths[0].parent) as back:
            try:
                fetched = self.gateway.fetch(Path(back), study=sample.study, series=sample.series)
            except PacsError as error:
                yield self._subject.failed(
                    check,
                    f"{what} were stored and do not come back: {error}",
                    "let it allow C-GET (or WADO-RS) to us, or C-MOVE to our AE title",
                )
                return False
            took_s = time.perf_counter() - begin - stored_s
            damage, harmless = changes(sample, fetched)
        if damage:
            yield self._subject.failed(
                check,
                f"{what} come back otherwise than they were sent: {'; '.join(damage)}",
                "have it store what it is sent, without coercion, for patients IODEEP*",
            )
            return False
        notes = f" ({'; '.join(harmless)}: no harm)" if harmless else ""
        speed = f"stored in {stored_s:.2g} s, fetched in {took_s:.2g} s"
        yield self._subject.passed(check, f"{what} kept bit for bit, {speed}{notes}")
        return True

    def _retrieving(self) -> Iterator[Finding]:
        if not isinstance(self.gateway, DimseGateway):
            return
        if self.gateway.uses_move:
            yield self._subject.warned(
                "retrieve",
                "C-MOVE, as C-GET is not allowed to us",
                "have it allow C-GET, which needs no port that it must reach",
            )
        else:
            yield self._subject.passed("retrieve", "C-GET")

    def _committing(self, sample: Sample) -> Iterator[Finding]:
        """Storage commitment is only worth trying where the archive can reach us."""
        if not isinstance(self.gateway, DimseGateway) or not self.gateway.can_be_reached:
            return
        try:
            commits = self.gateway.commits(sample.paths)
        except PacsError as error:
            yield self._subject.failed("commitment", error, "see why it does not keep it")
            return
        if commits:
            yield self._subject.passed("commitment", "it commits itself to keep what it took")
        else:
            yield self._subject.warned(
                "commitment",
                "no storage commitment, or no report of it reached us",
                "nothing need be done: everything is read back; or let it know our AE title at "
                "the port that listen=PORT names",
            )

    def _series(self) -> set[str]:
        """The series of the samples' study."""
        keys = {"StudyInstanceUID": "", "PatientID": PATIENT_ID}
        return {
            str(series.SeriesInstanceUID)
            for study in self.gateway.find("STUDY", keys)
            for series in self.gateway.find(
                "SERIES", {"StudyInstanceUID": str(study.StudyInstanceUID)}
            )
        }


def _answers(gateway: Gateway) -> bool:
    try:
        gateway.echo()
    except PacsError:
        return False
    return True
