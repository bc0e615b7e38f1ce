"""A release as a Key Object Selection document (PS3.3 Section A.35.4, PS3.16 TID 2010).

A viewer shows it as a note that points to the version's manifest; what it says to us stands,
signed, in its private elements.
"""

from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import RawDataStorage

from federation.iodeep.manifest import ReleaseManifest


def add_key_object(ds: Dataset, manifest: ReleaseManifest) -> None:
    """Add the modules of the document; ``ds`` has those of patient, study and series."""
    from highdicom.ko import KeyObjectSelection  # slow to import, and releases are rare

    version = Dataset()
    version.SOPClassUID = RawDataStorage
    version.SOPInstanceUID = manifest.of.uid
    version.StudyInstanceUID = manifest.study_uid
    version.SeriesInstanceUID = manifest.series
    content = KeyObjectSelection(
        document_title=codes.DCM.OfInterest,
        referenced_objects=[version],
        description=describe(manifest),
    )
    ds.update(content[0])
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.CurrentRequestedProcedureEvidenceSequence = [_evidence(version)]


def describe(manifest: ReleaseManifest) -> str:
    """What a viewer shows."""
    words = {"promote": "Released", "rollback": "Released again, after a rollback"}
    where = f"{manifest.line}, branch {manifest.branch}, round {manifest.round}"
    reason = f". {manifest.reason}" if manifest.reason else ""
    return f"{words[manifest.action]}: {where}{reason}"


def _evidence(version: Dataset) -> Dataset:
    """Study, series, instance (Hierarchical SOP Instance Reference Macro, PS3.3 C.17.2.1)."""
    instance = Dataset()
    instance.ReferencedSOPClassUID = version.SOPClassUID
    instance.ReferencedSOPInstanceUID = version.SOPInstanceUID
    series = Dataset()
    series.SeriesInstanceUID = version.SeriesInstanceUID
    series.ReferencedSOPSequence = [instance]
    study = Dataset()
    study.StudyInstanceUID = version.StudyInstanceUID
    study.ReferencedSeriesSequence = [series]
    return study
