"""The DICOM attributes of an IODeep record, made from its manifest alone.

SOP class Raw Data Storage (PS3.3 Section A.37), which every PACS takes; for a release, Key Object
Selection Document Storage (Section A.35.4). What the attributes say stands in the manifest too;
they are there for archives and people to read.
"""

from dataclasses import dataclass
from datetime import datetime

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    RawDataStorage,
)

from federation.errors import CodecError
from federation.iodeep.key_object import add_key_object
from federation.iodeep.labels import Concept
from federation.iodeep.manifest import (
    SCHEMA_VERSION,
    AnyManifest,
    RecordManifest,
    ReleaseManifest,
    VersionManifest,
    uid_of,
)
from federation.iodeep.regions import body_part, may_be_paired
from federation.software import software

CREATOR = "IODEEP"
GROUP = 0x7FDF
ELEMENT_SCHEMA = 0x01
ELEMENT_KIND = 0x02
ELEMENT_MANIFEST = 0x03
ELEMENT_SIGNATURE = 0x04
ELEMENT_POSITION = 0x05
ELEMENT_DIGEST = 0x06
ELEMENT_PART = 0x10

MANUFACTURER = "IODeep Federation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Stamp:
    """The clock times of a record, as DICOM DA and TM: they are not part of its identity.

    study: date and time of the branch's first record (purge rules read them)
    content: date and time at which this record was written
    """

    study_date: str
    study_time: str
    content_date: str
    content_time: str

    @classmethod
    def now(cls, *, study: tuple[str, str] | None = None) -> "Stamp":
        """This moment; ``study`` is the branch's date and time where it exists already."""
        moment = datetime.now()
        date, time = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S")
        study_date, study_time = study or (date, time)
        return cls(
            study_date=study_date, study_time=study_time, content_date=date, content_time=time
        )

    @classmethod
    def of(cls, dataset: Dataset) -> "Stamp":
        """The times that an instance carries. Raises :class:`CodecError` where one is absent."""
        try:
            times = (dataset.StudyDate, dataset.StudyTime, dataset.ContentDate, dataset.ContentTime)
        except AttributeError as error:
            raise CodecError("a record's instance lacks its study or content date") from error
        study_date, study_time, content_date, content_time = (str(time) for time in times)
        return cls(
            study_date=study_date,
            study_time=study_time,
            content_date=content_date,
            content_time=content_time,
        )


def instance_header(manifest: AnyManifest, number: int, instances: int, stamp: Stamp) -> Dataset:
    """Instance ``number`` of ``instances`` (1 is the manifest), all but the part's bytes."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    _add_patient_and_study(ds, manifest, stamp)
    _add_series(ds, manifest)
    ds.InstanceNumber = number
    ds.SOPClassUID = sop_class_of(manifest)
    ds.SOPInstanceUID = UID(manifest.uid if number == 1 else manifest.part_uid(number - 1))
    ds.ContentDate = stamp.content_date
    ds.ContentTime = stamp.content_time
    if isinstance(manifest, ReleaseManifest):
        add_key_object(ds, manifest)
    else:
        _add_raw_data(ds, manifest)
    _add_private(ds, manifest, number, instances)
    ds.file_meta = _file_meta(ds.SOPClassUID, ds.SOPInstanceUID)
    return ds


def sop_class_of(manifest: AnyManifest) -> UID:
    """A release is a Key Object Selection document, every other record Raw Data."""
    if isinstance(manifest, ReleaseManifest):
        return KeyObjectSelectionDocumentStorage
    return RawDataStorage


def series_description(manifest: AnyManifest) -> str:
    """Line, branch, kind and round without spaces, as far as 64 characters go."""
    slug = manifest.line.slug
    return f"{slug}/{manifest.branch}/{manifest.kind}/{manifest.round}"


def _add_patient_and_study(ds: Dataset, manifest: AnyManifest, stamp: Stamp) -> None:
    ds.PatientName = manifest.line.patient_name
    ds.PatientID = manifest.line.patient_id
    ds.IssuerOfPatientID = CREATOR
    ds.PatientBirthDate = ""
    ds.PatientSex = ""
    ds.StudyInstanceUID = manifest.study_uid
    ds.StudyDate = stamp.study_date
    ds.StudyTime = stamp.study_time
    ds.StudyID = manifest.branch
    ds.StudyDescription = str(manifest.line)[:64]
    ds.ReferringPhysicianName = ""
    ds.AccessionNumber = ""


def _add_series(ds: Dataset, manifest: AnyManifest) -> None:
    ds.SeriesInstanceUID = manifest.series_uid
    if isinstance(manifest, ReleaseManifest):
        ds.Modality = "KO"
        ds.SeriesNumber = manifest.number
    else:
        ds.Modality = "OT"  # a model is no acquisition and must not reach reading worklists
        ds.SeriesNumber = manifest.round
    ds.SeriesDescription = series_description(manifest)
    ds.Manufacturer = MANUFACTURER
    ds.SoftwareVersions = software()


def _add_raw_data(ds: Dataset, manifest: RecordManifest) -> None:
    """The Raw Data module (PS3.3 Section C.19.1), and what the record is about."""
    _add_purpose(ds, manifest)
    ds.AcquisitionDateTime = ""
    ds.CreatorVersionUID = uid_of(f"schema {SCHEMA_VERSION}")
    if isinstance(manifest, VersionManifest):
        _add_lineage(ds, manifest)
    else:
        ds.ReferencedInstanceSequence = [_referenced(manifest.of.uid, codes.DCM.SourceRawData)]


def _add_purpose(ds: Dataset, manifest: RecordManifest) -> None:
    region = manifest.line.region
    if term := body_part(region):
        ds.BodyPartExamined = term
        if may_be_paired(term):
            ds.Laterality = ""
    ds.AnatomicRegionSequence = [_coded(region)]
    ds.AcquisitionContextSequence = []


def _add_lineage(ds: Dataset, manifest: VersionManifest) -> None:
    lineage = manifest.lineage
    if lineage.parent is not None:
        ds.ReferencedInstanceSequence = [
            _referenced(lineage.parent.uid, codes.DCM.TemporalPredecessor)
        ]
    if lineage.receipts:
        ds.ContributingEquipmentSequence = [_contributor(r.site) for r in lineage.receipts]


def _contributor(site: str) -> Dataset:
    item = Dataset()
    item.Manufacturer = MANUFACTURER
    item.StationName = site[:16]
    item.PurposeOfReferenceCodeSequence = [_coded(codes.DCM.ProcessingEquipment)]
    return item


def _referenced(uid: str, purpose: Code) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = RawDataStorage
    item.ReferencedSOPInstanceUID = uid
    item.PurposeOfReferenceCodeSequence = [_coded(purpose)]
    return item


def _coded(concept: Concept | Code) -> Dataset:
    item = Dataset()
    item.CodeValue = concept.value
    item.CodingSchemeDesignator = (
        concept.scheme if isinstance(concept, Concept) else concept.scheme_designator
    )
    item.CodeMeaning = concept.meaning
    return item


def _add_private(ds: Dataset, manifest: AnyManifest, number: int, instances: int) -> None:
    block = ds.private_block(GROUP, CREATOR, create=True)
    block.add_new(ELEMENT_SCHEMA, "LO", str(SCHEMA_VERSION))
    block.add_new(ELEMENT_KIND, "CS", manifest.kind)
    block.add_new(ELEMENT_POSITION, "US", [number, instances])
    if number == 1:
        block.add_new(ELEMENT_MANIFEST, "UT", manifest.canonical.decode())
    else:
        block.add_new(ELEMENT_DIGEST, "LO", manifest.digest)


def _file_meta(sop_class: UID, sop_instance_uid: UID) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = sop_instance_uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return meta
