"""docs/conformance.md says what the code does."""

from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import AE

from federation.iodeep import codec, header, manifest, weights
from federation.iodeep.header import Stamp, instance_header
from federation.iodeep.labels import Line
from federation.iodeep.manifest import AnyManifest, Reference, ReleaseManifest, StateManifest
from federation.iodeep.signature import Signature
from federation.networks import build
from federation.pacs import Archive, ArchiveServer
from federation.pacs import elements as walk
from federation.pacs.address import parse_address
from federation.pacs.dimse import acceptor, association, bounds, contexts, visitor
from federation.pacs.embedded import server
from tests.federation.iodeep.records import evaluation, version

TEXT = (Path(__file__).parents[1] / "docs" / "conformance.md").read_text(encoding="utf-8")


def table(title: str, first_column: str) -> list[list[str]]:
    """The rows of the table in a section whose first column has this title."""
    section = TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]
    rows: list[list[str]] = []
    inside = False
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith(f"| {first_column} |"):
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|-"):
            rows.append(cells)
    return rows


def records() -> dict[str, tuple[AnyManifest, int]]:
    """Every kind of instance: its manifest, and which instance of the record it is."""
    of, _ = version(parent=Reference(uid="1.2", digest="0" * 64))
    of = of.model_copy(update={"line": Line.parse("MR/kidney/-/unet")})  # may have a side
    state = StateManifest(
        line=of.line, branch="b", round=1, of=of.reference, by="A", weights=of.weights
    )
    release = ReleaseManifest(
        line=of.line, branch="b", round=1, of=of.reference, series=of.series_uid, number=1,
        action="promote",
    )  # fmt: skip
    return {
        "V": (of, 1), "P": (of, 2), "S": (state, 1), "E": (evaluation(of), 1), "R": (release, 1),
    }  # fmt: skip


def written(tmp_path: Path) -> dict[str, dict[int, Any]]:
    """The elements of every kind of instance by tag, as they are in files."""
    found = {}
    for letter, (record, number) in records().items():
        parts = [b""] * (number - 1)
        path = tmp_path / f"{letter}.dcm"
        ds = instance_header(record, number, 1 + len(parts), Stamp.now())
        ds.save_as(path, enforce_file_format=True)
        found[letter] = {element.tag: element for element in ds}
    return found


def test_every_attribute_is_listed_with_its_vr_and_records(tmp_path: Path) -> None:
    said = {row[0]: (row[1], row[2], row[4]) for row in table("Attributes", "tag")}
    seen: dict[str, tuple[str, str, str]] = {}
    for letter, elements in written(tmp_path).items():
        for tag, element in elements.items():
            if not element.tag.is_private:
                key = f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
                before = seen.get(key, ("", "", ""))[2]
                seen[key] = (element.keyword, element.VR, before + letter)
    assert said == seen
    assert list(said) == sorted(said)


def test_types_are_kept(tmp_path: Path) -> None:
    """Type 1 is never empty."""
    required = {row[0] for row in table("Attributes", "tag") if row[3] == "1"}
    for elements in written(tmp_path).values():
        for tag, element in elements.items():
            if f"({tag >> 16:04X},{tag & 0xFFFF:04X})" in required:
                assert not element.is_empty, element.keyword


def test_the_private_dictionary_is_what_is_written(tmp_path: Path) -> None:
    said = {row[0]: (row[1], row[2], row[3]) for row in table("Private dictionary", "element")}
    seen: dict[str, tuple[str, str, str]] = {}
    for letter, elements in written(tmp_path).items():
        for tag, element in elements.items():
            if element.tag.is_private and not element.tag.is_private_creator:
                key = f"({tag >> 16:04X},xx{tag & 0xFF:02X})"
                before = seen.get(key, ("", "", ""))[2]
                seen[key] = (element.VR, str(element.VM), before + letter)
    # What the codec appends to the header: signature and part.
    seen[f"(7FDF,xx{header.ELEMENT_SIGNATURE:02X})"] = ("OB", "1", "VSER")
    seen[f"(7FDF,xx{header.ELEMENT_PART:02X})"] = ("OB", "1", "P")
    assert said == seen


def test_a_signature_and_a_part_are_in_files_as_said(tmp_path: Path) -> None:
    paths = codec.write_record(
        tmp_path, *version(), Stamp.now(), Signature(fingerprint="0" * 64, value=b"1" * 64)
    )
    part, first = pydicom.dcmread(paths[0]), pydicom.dcmread(paths[-1])
    assert first[header.GROUP, 0x1000 + header.ELEMENT_SIGNATURE].VR == "OB"
    last = list(part)[-1]
    assert (last.tag.element, last.VR) == (0x1000 + header.ELEMENT_PART, "OB")


def test_services_are_those_that_are_proposed_and_answered(tmp_path: Path) -> None:
    services = [row for row in table("Services", "service") if row[2]]
    proposed = {
        str(context.abstract_syntax)
        for every in (False, True)
        for context in contexts.Proposal(every=every).contexts()
    }
    for _, name, uid, gateway, _ in services:
        assert UID(uid).name == name
        assert (uid in proposed) == (gateway != "-")
    ae = AE()
    answered = [row for row in services if row[4] != "-"]
    for row in answered:
        ae.add_requested_context(row[2], ExplicitVRLittleEndian)
    with (
        Archive(tmp_path / "archive") as archive,
        ArchiveServer(archive, ae_title="PEER") as peer,
    ):
        asked = ae.associate("127.0.0.1", parse_address(peer.address).port, ae_title="PEER")
        assert len(asked.accepted_contexts) == len(answered)
        asked.release()


def test_transfer_syntaxes_are_those_that_are_proposed() -> None:
    said = [row[1] for row in table("Services", "transfer syntax")]
    assert said == list(association.TRANSFER_SYNTAXES)
    assert {syntax for _, syntax in contexts.OWN} == {ExplicitVRLittleEndian}
    for name, uid in table("Services", "transfer syntax"):
        assert UID(uid).name == name


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("longest PDU received, bytes", association.MAX_PDU_BYTES),
        ("manifest, bytes", manifest.MAX_MANIFEST_BYTES),
        ("weight part by default, bytes of data", weights.PART_BYTES),
        ("largest weight part, bytes", codec.MAX_PART_BYTES),
        ("weight parts of a record", manifest.MAX_PARTS),
        ("header of a weight part, bytes", weights.MAX_HEADER_BYTES),
        ("dimensions of a tensor", weights.MAX_DIMENSIONS),
        ("parameters of a network", build.MAX_PARAMETERS),
        ("associations at once, of the embedded archive", acceptor.MAX_ASSOCIATIONS),
        (
            "connections without an association, of the embedded archive",
            acceptor.MAX_WAITING,
        ),
        ("identifier, or what is to be committed, bytes", bounds.MAX_HELD_BYTES),
        ("value of an attribute that is indexed, bytes", walk.MAX_VALUE_BYTES),
        (
            "elements of an instance, without those in sequences of known length",
            walk.MAX_ELEMENTS,
        ),
        ("sequences of unknown length within each other", walk.MAX_DEPTH),
        ("deflated data set once inflated, bytes", walk.MAX_INFLATED_BYTES),
    ],
)
def test_limits_are_those_of_the_code(limit: str, value: int) -> None:
    said = {row[0]: int(row[1]) for row in table("Limits", "limit")}
    assert said[limit] == value
    assert len(said) == 15


def test_what_the_archive_answers_and_rejects_is_listed() -> None:
    said = [int(row[0], 16) for row in table("Embedded archive", "status")]
    assert said == [
        server.SUCCESS, server.DUPLICATE, server.OUT_OF_RESOURCES, server.NOT_THE_SOP_CLASS,
        server.CANNOT_UNDERSTAND,
    ]  # fmt: skip
    rejected = [row[0] for row in table("Embedded archive", "result, source, reason")]
    known = (visitor.CALLER_UNKNOWN, (1, 1, 7), acceptor.LOCAL_LIMIT_EXCEEDED)
    assert rejected == [", ".join(map(str, reason)) for reason in known]
    limits = f"has {visitor.REQUEST_S:g} s to ask for an association, and a PDU {visitor.PDU_S:g} s"
    assert limits in TEXT
