"""Lines, branches and versions, as a view over any PACS.

The archive is the only state: whoever opens a registry on it sees the same. A version is
there when its manifest and all its parts are; publishing means stored, read back, verified.
"""

import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset

from federation.errors import (
    CodecError,
    ConfigError,
    DigestError,
    PacsError,
    RegistryError,
    SignatureError,
    StorageError,
)
from federation.iodeep.codec import Chunks, Record, read_manifest, read_record, write_record
from federation.iodeep.header import Stamp
from federation.iodeep.labels import Line
from federation.iodeep.manifest import (
    AnyManifest,
    EvaluationManifest,
    Reference,
    ReleaseManifest,
    StateManifest,
    VersionManifest,
    WeightsManifest,
    branch_uid,
)
from federation.iodeep.signature import Signature, SigningKey
from federation.pacs import Gateway
from federation.pacs.attributes import is_uid
from federation.trust import Trust
from federation.whole import make_private


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """A branch of a line, as its study says."""

    line: Line
    name: str
    study_uid: str
    date: str
    time: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A record in the archive, as its manifest says."""

    manifest: AnyManifest
    signature: Signature | None
    stamp: Stamp


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """The outcome of publishing: ``stored`` counts instances sent; 0 where all was there."""

    reference: Reference
    stored: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """The outcome of verifying one series: ``problem`` is None where all is well.

    Where something is wrong, ``round`` is the Series Number, and ``kind`` what the manifest says.
    """

    branch: str
    round: int
    kind: str
    uid: str
    problem: str | None


_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"

UNFINISHED = "unfinished"
"""The kind of what is no record, as its manifest never came."""

UNREADABLE = "record"
"""The kind of a record whose manifest cannot be read, so that nobody can say."""


class Registry:
    """The IODeep records of one archive.

    Manifests are kept in memory once read: their UIDs are made from their content.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        trust: Trust | None = None,
        signer: SigningKey | None = None,
        scratch: Path | None = None,
    ) -> None:
        """What is pulled and published must be believed by ``trust``; without it nothing is asked.

        signer:  signs what is published here without a signature of its own
        scratch: where files lie while they are sent or read (a temporary folder)
        """
        self._gateway = gateway
        self.trust = trust
        self._signer = signer
        self._scratch = scratch
        self._entries: dict[str, Entry] = {}

    def release(self) -> None:
        """Let go of the archive until the next question (:meth:`Gateway.release`)."""
        self._gateway.release()

    # --- looking --------------------------------------------------------------------------

    def branches(self, line: Line | None = None, modality: str = "*") -> list[Branch]:
        """All branches of a line, or of every line (of a modality), by line and date."""
        keys = {
            "PatientID": line.patient_id if line else f"IODEEP.{modality}.*",
            "StudyInstanceUID": "",
            "StudyID": "",
            "StudyDate": "",
            "StudyTime": "",
        }
        found = []
        for study in self._gateway.find("STUDY", keys):
            try:
                of = Line.of_patient_id(str(study.get("PatientID", "")))
            except ConfigError:
                continue  # somebody else's patient, whose ID begins like ours
            found.append(
                Branch(
                    line=of,
                    name=str(study.get("StudyID", "")),
                    study_uid=str(study.StudyInstanceUID),
                    date=str(study.get("StudyDate", "")),
                    time=str(study.get("StudyTime", "")),
                )
            )
        return sorted(found, key=lambda branch: (branch.line.patient_id, branch.date, branch.time))

    def entries(self, line: Line, branch: str, round: int | None = None) -> list[Entry]:
        """The records of a branch (or one round of it) with a readable manifest, by round.

        Weights are not touched.
        """
        study = branch_uid(line, branch)
        found = []
        for series in self._series(study, round):
            entry = self._entry(study, str(series.SeriesInstanceUID))
            if entry is not None:
                found.append(entry)
        return sorted(found, key=lambda entry: entry.manifest.round)

    def versions(self, line: Line, branch: str, round: int | None = None) -> list[VersionManifest]:
        """The complete versions of a branch (or of one round of it), by round."""
        return [
            entry.manifest
            for entry in self.entries(line, branch, round)
            if isinstance(entry.manifest, VersionManifest) and self._is_complete(entry.manifest)
        ]

    def version(
        self, line: Line, branch: str, series: str, reference: Reference
    ) -> VersionManifest:
        """The version that a reference names, in a series.

        Raises :class:`RegistryError` where it is not complete there.
        """
        study = branch_uid(line, branch)
        there = self._instances(study, series)
        entry = self._entry(study, series, reference.uid) if reference.uid in there else None
        if (
            entry is not None
            and isinstance(entry.manifest, VersionManifest)
            and entry.manifest.reference == reference
            and _parts(entry.manifest) <= there
        ):
            return entry.manifest
        raise RegistryError(
            f"version {reference.uid} (line {line}, branch {branch!r}) is not whole in "
            f"{self._gateway.address}"
        )

    def stored(self) -> list[WeightsManifest]:
        """All versions and states, of every line, by their manifests; also without all weights."""
        return [
            entry.manifest
            for branch in self.branches()
            for entry in self.entries(branch.line, branch.name)
            if isinstance(entry.manifest, WeightsManifest)
        ]

    def stored_bytes(self) -> int:
        """What the weights of :meth:`stored` take."""
        return bytes_of(self.stored())

    def latest(self, line: Line, branch: str) -> VersionManifest:
        """The complete version with the largest round. Raises :class:`RegistryError`."""
        versions = self.versions(line, branch)
        if not versions:
            raise RegistryError(
                f"line {line} has no complete version on branch {branch!r} "
                f"in {self._gateway.address}"
            )
        return versions[-1]

    def evaluations(self, line: Line, branch: str) -> list[EvaluationManifest]:
        """All evaluations of a branch's versions that are believed, by round.

        Unlike a version, an evaluation is never pulled: what is listed is taken for true.
        """
        return [
            entry.manifest
            for entry in self.entries(line, branch)
            if isinstance(entry.manifest, EvaluationManifest) and self._is_believed(entry)
        ]

    def releases(self, line: Line) -> list[tuple[ReleaseManifest, Signature | None]]:
        """The release documents of a line that can be read, believed or not, in no order.

        :mod:`federation.releases` says what they come to.
        """
        found = []
        for branch in self.branches(line):
            for series in self._series(branch.study_uid, modality="KO"):
                entry = self._entry(branch.study_uid, str(series.SeriesInstanceUID))
                if entry is not None and isinstance(entry.manifest, ReleaseManifest):
                    found.append((entry.manifest, entry.signature))
        return found

    def state(self, line: Line, branch: str, round: int, by: str) -> StateManifest | None:
        """What ``by`` last had to remember of a branch, up to a round; None where nothing."""
        states = [
            entry.manifest
            for entry in self.entries(line, branch)
            if isinstance(entry.manifest, StateManifest)
            and entry.manifest.by == by
            and entry.manifest.round <= round
            and self._is_complete(entry.manifest)
        ]
        return states[-1] if states else None

    # --- reading whole --------------------------------------------------------------------

    @contextmanager
    def pull(self, version: WeightsManifest) -> Iterator[Record]:
        """A version (or a state) with its weights, verified, while the context lasts.

        Raises :class:`~federation.errors.CodecError` where anything is missing or changed.
        """
        with self._folder() as folder:
            paths = self._gateway.fetch(folder, study=version.study_uid, series=version.series_uid)
            record = read_record(paths)
            if record.manifest != version:
                raise RegistryError(f"series {version.series_uid} holds another version than asked")
            self._believe(record.manifest, record.signature)
            record.verify()
            yield record

    @contextmanager
    def open(self, line: Line, branch: str, round: int, reference: Reference) -> Iterator[Record]:
        """The version that a reference names, with its weights, verified, while open.

        Raises :class:`RegistryError` where it is not there, and
        :class:`~federation.errors.CodecError` where anything is missing or changed.
        """
        study = branch_uid(line, branch)
        for series in self._series(study, round):
            uid = str(series.SeriesInstanceUID)
            if self._manifest_uid(study, uid) != reference.uid:
                continue
            with self._folder() as folder:
                record = read_record(self._gateway.fetch(folder, study=study, series=uid))
                if record.version.reference != reference:
                    raise DigestError(f"version {reference.uid} has another digest than asked for")
                self._believe(record.manifest, record.signature)
                record.verify()
                yield record
            return
        raise RegistryError(
            f"version {reference.uid} (line {line}, branch {branch!r}, round {round}) "
            f"is not in {self._gateway.address}"
        )

    # --- writing --------------------------------------------------------------------------

    def publish(
        self,
        manifest: AnyManifest,
        parts: Sequence[Chunks] = (),
        stamp: Stamp | None = None,
        signature: Signature | None = None,
    ) -> Published:
        """Store a record, read it back and verify every byte.

        It keeps the ``signature`` it came with, or else gets the registry's own.

        What is there already is not sent again: publishing twice stores nothing. A record
        becomes visible with its manifest, which is stored last. Raises
        :class:`RegistryError` where another version has the same branch and round, and
        :class:`~federation.errors.StorageError` where the archive does not give back what it
        was sent, or drops what was there before.
        """
        if signature is None and self._signer is not None:
            signature = self._signer.sign(manifest.canonical)
        self._believe(manifest, signature)
        there = self._instances(manifest.study_uid, manifest.series_uid)
        self._refuse_conflict(manifest)
        with self._folder() as folder:
            paths = write_record(folder, manifest, parts, stamp or self._stamp(manifest), signature)
            uids = [manifest.part_uid(number + 1) for number in range(len(parts))]
            missing = [
                path
                for path, uid in zip(paths, [*uids, manifest.uid], strict=True)
                if uid not in there
            ]
            before = self._series_uids(manifest.study_uid) if missing else set()
            self._gateway.store([path for path in missing if path != paths[-1]])
            self._gateway.store([path for path in missing if path == paths[-1]])
        self._read_back(manifest, signature)
        self._refuse_loss(manifest, before)
        return Published(reference=manifest.reference, stored=len(missing))

    def _believe(self, manifest: AnyManifest, signature: Signature | None) -> None:
        if self.trust is not None:
            self.trust.check(manifest, signature)

    def _is_believed(self, entry: Entry) -> bool:
        try:
            self._believe(entry.manifest, entry.signature)
        except SignatureError:
            return False
        return True

    def _stamp(self, manifest: AnyManifest) -> Stamp:
        """Now, with the study's date and time where the branch exists already."""
        for branch in self.branches(manifest.line):
            if branch.study_uid == manifest.study_uid and branch.date:
                return Stamp.now(study=(branch.date, branch.time))
        return Stamp.now()

    def _refuse_conflict(self, manifest: AnyManifest) -> None:
        if not isinstance(manifest, VersionManifest):
            return
        for other in self.versions(manifest.line, manifest.branch, manifest.round):
            if other.digest != manifest.digest:
                raise RegistryError(
                    f"round {manifest.round} of branch {manifest.branch!r} is published with "
                    f"digest {other.digest[:12]}…; {manifest.digest[:12]}… was not stored. "
                    "Published rounds never change: open a new branch"
                )

    def _refuse_loss(self, manifest: AnyManifest, before: set[str]) -> None:
        """Some archives make room for what they take by dropping older series, and say nothing."""
        if before and (gone := before - self._series_uids(manifest.study_uid)):
            raise StorageError(
                f"{self._gateway.address} took {manifest.kind} {manifest.uid} and has dropped "
                f"{len(gone)} older series of branch {manifest.branch!r} meanwhile: is there a "
                "quota? Raise it, or keep models in another archive"
            )

    def _read_back(self, manifest: AnyManifest, signature: Signature | None) -> None:
        with self._folder() as folder:
            try:
                paths = self._gateway.fetch(
                    folder, study=manifest.study_uid, series=manifest.series_uid
                )
                record = read_record(paths)
                record.verify()
            except CodecError as error:
                raise StorageError(
                    f"{self._gateway.address} took {manifest.kind} {manifest.uid} but does not "
                    f"give it back as it was sent: {error}"
                ) from error
            if record.manifest.digest != manifest.digest:
                raise StorageError(
                    f"{self._gateway.address} gave back another {manifest.kind} than was sent"
                )
            if record.signature != signature:
                raise StorageError(
                    f"{self._gateway.address} holds {manifest.kind} {manifest.uid} with another "
                    "signature, or none, where it is signed now: somebody else stored it before. "
                    "Have it removed there, or sign with the key it has"
                )

    # --- checking -------------------------------------------------------------------------

    def verify(self, line: Line, branch: str) -> Iterator[Checked]:
        """Recompute a branch: every byte of every record, its signature where the registry has
        a trust list, and what each one stands on.

        Yields an outcome for each series: versions by round, then the rest. Parts without a
        manifest are what a publishing that was cut off leaves: no record, ``unfinished``, and no
        damage. Where a record lost its manifest, what stands on it says so.
        """
        study = branch_uid(line, branch)
        known: dict[str, str | None] = {}  # digest by manifest UID; None where unreadable
        later: list[AnyManifest] = []
        for series in sorted(self._series(study), key=_number):
            uid = str(series.SeriesInstanceUID)
            if not self._first_instances(study, uid):
                yield Checked(
                    branch=branch, round=_number(series), kind=UNFINISHED, uid=uid, problem=None
                )
                continue
            shown = self._manifest_uid(study, uid) or uid
            kind = UNREADABLE
            try:
                with self._record(study, uid) as record:
                    manifest = record.manifest
                    kind = manifest.kind
                    record.verify()
                    self._believe(manifest, record.signature)
            except (CodecError, PacsError) as error:
                known[shown] = None
                yield Checked(
                    branch=branch,
                    round=_number(series),
                    kind=kind,
                    uid=shown,
                    problem=str(error),
                )
                continue
            known[manifest.uid] = manifest.digest
            if isinstance(manifest, VersionManifest):
                yield _checked(manifest, line, branch, known)
            else:
                later.append(manifest)
        for other in later:
            yield _checked(other, line, branch, known)

    @contextmanager
    def _record(self, study: str, series: str) -> Iterator[Record]:
        with self._folder() as folder:
            yield read_record(self._gateway.fetch(folder, study=study, series=series))

    # --- the archive ----------------------------------------------------------------------

    def _series(self, study: str, round: int | None = None, modality: str = "") -> list[Dataset]:
        keys = {
            "StudyInstanceUID": study,
            "SeriesInstanceUID": "",
            "SeriesNumber": "" if round is None else str(round),
            "Modality": modality,
        }
        found = self._gateway.find("SERIES", keys)
        return [series for series in found if is_uid(str(series.SeriesInstanceUID))]

    def _series_uids(self, study: str) -> set[str]:
        return {str(series.SeriesInstanceUID) for series in self._series(study)}

    def _entry(self, study: str, series: str, instance: str | None = None) -> Entry | None:
        """The manifest of a series; None where it has none (yet) or it cannot be read.

        instance: its SOP Instance UID, where that is known
        """
        if series in self._entries:
            return self._entries[series]
        instance = instance or self._manifest_uid(study, series)
        if instance is None:
            return None
        with self._folder() as folder:
            try:
                paths = self._gateway.fetch(folder, study=study, series=series, instance=instance)
                manifest, signature, stamp = read_manifest(paths[0])
            except CodecError:
                return None  # not ours, or damaged: `verify` says what is wrong with it
        if (manifest.study_uid, manifest.series_uid) != (study, series):
            return None  # another record's
        self._entries[series] = Entry(manifest=manifest, signature=signature, stamp=stamp)
        return self._entries[series]

    def _manifest_uid(self, study: str, series: str) -> str | None:
        """SOP Instance UID of a series' first instance, if it has one."""
        found = self._first_instances(study, series)
        return found[0] if len(found) == 1 else None

    def _first_instances(self, study: str, series: str) -> list[str]:
        keys = {
            "StudyInstanceUID": study,
            "SeriesInstanceUID": series,
            "SOPInstanceUID": "",
            "InstanceNumber": "1",
        }
        return [str(found.SOPInstanceUID) for found in self._gateway.find("IMAGE", keys)]

    def _instances(self, study: str, series: str) -> set[str]:
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": ""}
        return {str(found.SOPInstanceUID) for found in self._gateway.find("IMAGE", keys)}

    def _is_complete(self, version: WeightsManifest) -> bool:
        return _parts(version) <= self._instances(version.study_uid, version.series_uid)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        if self._scratch is not None:
            make_private(self._scratch)
        with tempfile.TemporaryDirectory(prefix="iodeep-", dir=self._scratch) as folder:
            yield Path(folder)


def bytes_of(stored: Iterable[WeightsManifest]) -> int:
    """What the weights of versions and states take."""
    return sum(part.bytes for one in stored for part in one.weights.parts)


def _parts(version: WeightsManifest) -> set[str]:
    """SOP Instance UIDs of the weights' parts."""
    return {version.part_uid(n + 1) for n in range(len(version.weights.parts))}


def _number(series: Dataset) -> int:
    return int(series.get("SeriesNumber") or 0)


def _checked(
    manifest: AnyManifest, line: Line, branch: str, known: dict[str, str | None]
) -> Checked:
    problem = None
    if manifest.line != line or manifest.branch != branch:
        problem = f"its manifest belongs to line {manifest.line}, branch {manifest.branch!r}"
    elif (stands_on := _stands_on(manifest)) is not None:
        if stands_on.uid not in known:
            problem = f"it stands on {stands_on.uid}, which is not on this branch"
        elif known[stands_on.uid] not in (None, stands_on.digest):
            problem = f"it stands on {stands_on.uid}, whose digest is another than it names"
    return Checked(
        branch=branch, round=manifest.round, kind=manifest.kind, uid=manifest.uid, problem=problem
    )


def _stands_on(manifest: AnyManifest) -> Reference | None:
    """An evaluation and a release stand on their version; a version on its parent, and a state on
    the version that its round began with, once past round 1.

    The first round's start may lie on the branch that the run was started from.
    """
    if isinstance(manifest, EvaluationManifest | ReleaseManifest):
        return manifest.of
    start = manifest.of if isinstance(manifest, StateManifest) else manifest.lineage.parent
    return start if manifest.round > 1 else None


def new_branch(name: str) -> str:
    """A branch name of at most 16 characters: ``name``, shortened, and a short random id."""
    return f"{name[:11].strip('-')}-{''.join(secrets.choice(_ALPHABET) for _ in range(4))}"
