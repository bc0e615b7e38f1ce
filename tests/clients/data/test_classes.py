"""Classes of whole images: out of a site's list, and out of structured reports."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import BasicTextSRStorage, EnhancedSRStorage, ExtensibleSRStorage

from clients.data import Reason, load_examples
from clients.data.census import Census, find_labelled_series
from clients.data.labels import read_header, read_list, wanted_by
from federation.config import Archives, DataTable, LabelSource, Site, Split
from federation.errors import ConfigError, DataError
from federation.iodeep.architecture import Preprocessing
from federation.iodeep.labels import Concept, Line
from federation.iodeep.manifest import OutputLabel
from federation.pacs import Gateway
from tests import classified
from tests.clients.data.conftest import edit

MASS = OutputLabel.named(1, "mass")
LINE = Line.parse("CT/lung/-/mass")
VOLUMES = Preprocessing(spacing_mm=(1, 1, 1), size=(16, 16, 16), intensity="none")
SINGLE = Preprocessing(spacing_mm=(1, 1), size=(16, 16), intensity="none")


def table(folder: Path, labels: LabelSource) -> DataTable:
    key = folder / "split.key"
    key.write_text("a key for tests\n")
    return DataTable(labels=labels, split=Split(validation=0.0, test=0.0, key=key))


def from_csv(folder: Path, *rows: str, **names: int) -> LabelSource:
    file = folder / "labels.csv"
    file.write_text("\n".join(rows) + "\n")
    return LabelSource(source=("CSV",), file=file, map=names)


def census(gateway: Gateway, data: DataTable, outputs: Sequence[OutputLabel] = (MASS,)) -> Census:
    return find_labelled_series(gateway, data, wanted_by(data.labels, outputs))


def classes(found: Census) -> list[int | None]:
    return [one.image_class for one in found.labelled]


def reasons(found: Census) -> list[Reason]:
    return [one.reason for one in found.quarantined]


@pytest.fixture
def images(gateway: Gateway, tmp_path: Path) -> list[Path]:
    """One CT of patient SECRET-one, in the archive."""
    paths = classified.write_series(tmp_path / "files", "one", has_blob=True, seed=1)
    gateway.store(paths)
    return paths


# --- a list -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [
        ("patient_id,label", f"{classified.patient('one')},yes"),
        ("Study,Label", f"{classified.uid('one', 'study')},YES"),
        ("series;label", f"{classified.uid('one', 'series')};yes"),
        (
            "label,note,patient_id,series",
            f'yes,"of, a note",{classified.patient("one")},{classified.uid("one", "series")}',
            f"no,,{classified.patient('one')},1.2.3",
        ),
        ("\ufeffseries,label", f"{classified.uid('one', 'series')},mass", ""),
    ],
    ids=["patient", "study", "semicolons", "series before patient", "an output's name"],
)
def test_a_row_gives_a_class(
    gateway: Gateway, images: list[Path], tmp_path: Path, rows: tuple[str, ...]
) -> None:
    found = census(gateway, table(tmp_path, from_csv(tmp_path, *rows, yes=1, no=0)))
    assert (classes(found), reasons(found)) == ([1], [])
    assert (found.labelled[0].source, found.labelled[0].labels) == ("CSV", ())


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["SECRET-other,yes"], Reason.NO_LABELS),
        (["SECRET-one,yes", "SECRET-one,no"], Reason.SEVERAL_LABELS),
        (["SECRET-one,maybe"], Reason.NO_LABELS),
    ],
)
def test_a_series_without_one_class_is_left_out(
    gateway: Gateway, images: list[Path], tmp_path: Path, rows: list[str], reason: Reason
) -> None:
    labels = from_csv(tmp_path, "patient_id,label", *rows, yes=1, no=0)
    found = census(gateway, table(tmp_path, labels))
    assert (classes(found), reasons(found)) == ([], [reason])
    assert "SECRET" not in found.quarantined[0].detail
    assert "maybe" not in found.quarantined[0].detail


def test_rows_that_say_the_same_are_one(
    gateway: Gateway, images: list[Path], tmp_path: Path
) -> None:
    rows = ["SECRET-one,yes", "SECRET-one,Mass", "SECRET-one,yes"]
    labels = from_csv(tmp_path, "patient_id,label", *rows, yes=1)
    assert classes(census(gateway, table(tmp_path, labels))) == [1]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["name,label", "SECRET,yes"], "header of .* expected a column 'label' and one of"),
        (["patient_id,class", "SECRET,yes"], "expected a column 'label'"),
        (["patient_id,label,label", "SECRET,yes,no"], "each once"),
        (["patient_id,label", "SECRET,yes", "SECRET"], "line 3 of .*1 fields, and the header has"),
        (["patient_id,label", ",yes"], "line 2 of .*no patient_id"),
        (["patient_id,label", "SECRET, "], "line 2 of .*no label"),
        (["study,label", "SECRET,yes"], "line 2 of .*its study is no UID"),
        (["patient_id,label", "SECRET" * 11 + ",yes"], "66 characters; at most 64"),
        (["patient_id,label", '"SECRET,yes'], "line 2 of .* is no CSV"),
        ([""], "expected a column"),
    ],
)
def test_a_bad_row_is_an_error_that_names_its_line_and_nobody(
    tmp_path: Path, rows: list[str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read_list(from_csv(tmp_path, *rows).file or Path())
    assert "SECRET" not in str(caught.value)


def test_a_list_that_is_none_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.csv"
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_list(path)
    path.write_bytes(b"patient_id,label\nM\xfcller,yes\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_list(path)
    monkeypatch.setattr("clients.data.labels.listed._MOST_BYTES", 8)
    with pytest.raises(ConfigError, match="larger than"):
        read_list(path)


# --- structured reports -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SCT:4147007", "Mass"], ids=["code", "meaning"])
def test_a_report_gives_a_class(
    gateway: Gateway, images: list[Path], tmp_path: Path, name: str
) -> None:
    gateway.store([classified.write_report(images, classified.BLOB)])
    found = census(gateway, table(tmp_path, LabelSource(source=("SR",), map={name: 1})), [])
    assert (classes(found), reasons(found)) == ([1], [])
    assert found.labelled[0].source == "SR"


def test_an_output_s_own_code_needs_no_entry(
    gateway: Gateway, images: list[Path], tmp_path: Path
) -> None:
    gateway.store([classified.write_report(images, classified.BLOB)])
    coded = Concept(value="4147007", scheme="SCT", meaning="Mass")
    outputs = [
        OutputLabel(number=1, name="cyst"),
        OutputLabel(number=2, name="lump", concept=coded),
    ]
    found = census(gateway, table(tmp_path, LabelSource(source=("SR",))), outputs)
    assert classes(found) == [2]


def test_the_value_of_a_text_item_counts_too(
    gateway: Gateway, images: list[Path], tmp_path: Path
) -> None:
    path = classified.write_report(images, classified.NONE)

    def as_text(document: Dataset) -> None:
        left = [document]
        while left:
            item = left.pop()
            left.extend(item.get("ContentSequence") or ())
            names = item.get("ConceptNameCodeSequence")
            if names and names[0].CodeValue == classified.FINDING.value:
                item.ValueType, item.TextValue = "TEXT", "No  Mass seen"
                del item.ConceptCodeSequence

    edit(path, as_text)
    gateway.store([path])
    data = table(tmp_path, LabelSource(source=("SR",), map={"no mass seen": 0}))
    assert classes(census(gateway, data)) == [0]


@pytest.mark.parametrize("kind", [EnhancedSRStorage, BasicTextSRStorage, ExtensibleSRStorage])
def test_reports_of_other_kinds_are_read_too(
    gateway: Gateway, images: list[Path], tmp_path: Path, kind: str
) -> None:
    path = classified.write_report(images, classified.BLOB)

    def of_kind(document: Dataset) -> None:
        document.SOPClassUID = document.file_meta.MediaStorageSOPClassUID = kind

    edit(path, of_kind)
    gateway.store([path])
    data = table(tmp_path, LabelSource(source=("SR",), map={"mass": 1}))
    assert classes(census(gateway, data)) == [1]


def test_a_report_on_images_that_are_gone_is_told(gateway: Gateway, tmp_path: Path) -> None:
    paths = classified.write_series(tmp_path / "files", "one", has_blob=True, seed=1)
    gateway.store([classified.write_report(paths, classified.BLOB)])
    data = table(tmp_path, LabelSource(source=("SR",), map={"mass": 1}))
    assert reasons(census(gateway, data)) == [Reason.IMAGES_ABSENT]


def test_reports_that_disagree_are_left_out_and_those_that_agree_are_one(
    gateway: Gateway, images: list[Path], tmp_path: Path
) -> None:
    data = table(tmp_path, LabelSource(source=("SR",), map={"mass": 1, "normal": 0}))
    gateway.store([classified.write_report(images, classified.BLOB)])
    gateway.store([classified.write_report(images, classified.BLOB, series_uid="1.2.3.4")])
    found = census(gateway, data)
    assert (classes(found), len(found.labelled[0].labels)) == ([1], 2)
    gateway.store([classified.write_report(images, classified.NONE)])
    assert reasons(census(gateway, data)) == [Reason.SEVERAL_LABELS]


def test_a_report_without_a_wanted_value_is_no_label(
    gateway: Gateway, images: list[Path], tmp_path: Path
) -> None:
    gateway.store([classified.write_report(images, classified.NONE)])
    data = table(tmp_path, LabelSource(source=("SR",), map={"mass": 1}))
    assert reasons(census(gateway, data)) == [Reason.NO_LABELS]


def test_what_a_report_says_besides_is_not_remembered(
    gateway: Gateway, images: list[Path], tmp_path: Path
) -> None:
    report = classified.write_report(images, classified.BLOB)
    gateway.store([report])
    header = read_header(report)
    assert header.series == (classified.uid("one", "series"),)
    assert {"mass", "ct"} <= {segment.meaning for segment in header.segments}
    labels = LabelSource(source=("SR",), map={"mass": 1})
    known: dict[str, object] = {}
    for _ in range(2):
        found = find_labelled_series(
            gateway,
            table(tmp_path, labels),
            wanted_by(labels),
            known=known,
        )
        assert classes(found) == [1]
    (kept,) = known.values()
    assert [segment.meaning for segment in kept.segments] == ["mass"]
    other = LabelSource(source=("SR",), map={"ct": 1})
    found = find_labelled_series(
        gateway,
        table(tmp_path, other),
        wanted_by(other),
        known=known,
    )
    assert classes(found) == [1]


def test_a_list_is_looked_at_where_reports_say_nothing(
    gateway: Gateway, images: list[Path], tmp_path: Path
) -> None:
    labels = from_csv(tmp_path, "patient_id,label", "SECRET-one,mass")
    both = labels.model_copy(update={"source": ("SR", "CSV")})
    found = census(gateway, table(tmp_path, both))
    assert [(one.source, one.image_class) for one in found.labelled] == [("CSV", 1)]
    gateway.store([classified.write_report(images, value) for value in classified.VALUES])
    both = both.model_copy(update={"map": {"normal": 0}})
    assert reasons(census(gateway, table(tmp_path, both))) == [Reason.SEVERAL_LABELS]


# --- examples -----------------------------------------------------------------------------


def site(folder: Path, labels: LabelSource) -> Site:
    return Site(
        name="hospital",
        archives=Archives(images="folder:unused"),
        data={"lung": table(folder, labels), "chest": table(folder, labels)},
        work=folder / "work",
    )


def test_an_example_is_the_volume_and_its_class(
    gateway: Gateway, images: list[Path], tmp_path: Path
) -> None:
    labels = from_csv(tmp_path, "patient_id,label", "SECRET-one,yes", yes=1)
    for _ in range(2):  # out of the archive, then out of the cache
        data = load_examples(
            gateway, site(tmp_path, labels), LINE, VOLUMES, [MASS], task="classification", run="r"
        )
        (example,) = data.train
        assert (tuple(example.image.shape), example.label.tolist()) == ((1, 16, 16, 16), [1])
        assert float(example.image.max()) > 140
    kept = "".join(path.read_text() for path in (tmp_path / "work").rglob("*.json*"))
    assert "SECRET" not in kept


def test_a_changed_row_changes_the_example(
    gateway: Gateway, images: list[Path], tmp_path: Path
) -> None:
    for row, expected in (("SECRET-one,yes", 1), ("SECRET-one,no", 0)):
        labels = from_csv(tmp_path, "patient_id,label", row, yes=1, no=0)
        data = load_examples(
            gateway, site(tmp_path, labels), LINE, VOLUMES, [MASS], task="classification", run="r"
        )
        assert data.train[0].label.tolist() == [expected]


def test_a_projection_is_one_image(gateway: Gateway, tmp_path: Path) -> None:
    gateway.store(
        classified.write_series(
            tmp_path / "files", "flat", has_blob=True, seed=1, slices=1, modality="CR"
        )
    )
    labels = from_csv(tmp_path, "patient_id,label", "SECRET-flat,mass")
    line = Line.parse("CR/chest/-/mass")
    data = load_examples(
        gateway, site(tmp_path, labels), line, SINGLE, [MASS], task="classification"
    )
    (example,) = data.train
    assert (tuple(example.image.shape), example.label.tolist()) == ((1, 1, 16, 16), [1])


def test_a_volume_is_no_example_of_a_network_that_takes_single_images(
    gateway: Gateway, images: list[Path], tmp_path: Path
) -> None:
    labels = from_csv(tmp_path, "patient_id,label", "SECRET-one,mass")
    with pytest.raises(DataError, match=r"0 usable studies .* 1 image-unsupported"):
        load_examples(gateway, site(tmp_path, labels), LINE, SINGLE, [MASS], task="classification")
    written = (tmp_path / "work" / "quarantine.jsonl").read_text()
    assert "a network with spatial_dims = 3 takes it" in written


def test_labels_for_another_task_are_refused(gateway: Gateway, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'needs labels.source = "SR" or "CSV"'):
        load_examples(
            gateway, site(tmp_path, LabelSource()), LINE, VOLUMES, [MASS], task="classification"
        )
    drawn = site(tmp_path, LabelSource(source=("SR",)))
    with pytest.raises(ConfigError, match=r'needs labels.source = "SEG" or "RTSTRUCT"'):
        load_examples(gateway, drawn, LINE, VOLUMES, [MASS])


# --- what a report says, and of which series ----------------------------------------------


def coded(code: str, scheme: str = "DCM", meaning: str = "for a test") -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, scheme, meaning
    return item


def content(kind: str, name: Dataset, *below: Dataset, **values: object) -> Dataset:
    """A content item with these below it."""
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", kind
    item.ConceptNameCodeSequence = [name]
    for keyword, value in values.items():
        setattr(item, keyword, value)
    if below:
        item.ContentSequence = list(below)
    return item


def mass(*below: Dataset, name: Dataset | None = None) -> Dataset:
    value = coded("4147007", "SCT", "Mass")
    return content("CODE", name or coded("121071"), *below, ConceptCodeSequence=[value])


def shows(path: Path) -> Dataset:
    """An IMAGE item."""
    image, reference = dcmread(path), Dataset()
    reference.ReferencedSOPClassUID = image.SOPClassUID
    reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
    return content("IMAGE", coded("121112"), ReferencedSOPSequence=[reference])


def report_of(images: Sequence[Path], *items: Dataset) -> Path:
    """A report on these images that holds, besides who wrote it, these items and nothing else."""
    path = classified.write_report(images, classified.BLOB)

    def change(document: Dataset) -> None:
        document.ContentSequence = list(items)

    edit(path, change)
    return path


@pytest.fixture
def two(gateway: Gateway, tmp_path: Path) -> list[Path]:
    """An image of each of two series of one study, both in the archive."""
    study, patient = classified.uid("one", "study"), classified.patient("one")

    def as_of_one(image: Dataset) -> None:
        image.StudyInstanceUID, image.PatientID = study, patient

    found = []
    for name in ("one", "two"):
        (path,) = classified.write_series(tmp_path, name, has_blob=True, seed=1, slices=1)
        edit(path, as_of_one)
        found.append(path)
    gateway.store(found)
    return found


def said_of(gateway: Gateway, folder: Path, report: Path) -> dict[str, int | Reason]:
    """Of each of the two series its class, or why it has none."""
    gateway.store([report])
    names = {classified.uid(name, "series"): name for name in ("one", "two")}
    found = census(gateway, table(folder, LabelSource(source=("SR",), map={"normal": 0})))
    classes = {names[one.image_series]: one.image_class for one in found.labelled}
    return classes | {names[one.series]: one.reason for one in found.quarantined}


@pytest.mark.parametrize(
    "name",
    [coded(code) for code in ("121109", "121060", "121062", "121064", "121065", "121069", "111401")]
    + [coded(code, "LN") for code in ("55111-9", "55114-3", "18785-6", "11329-0", "18834-2")],
    ids=lambda name: str(name.CodeValue),
)
@pytest.mark.parametrize("is_section", [False, True], ids=["item", "section"])
def test_why_somebody_was_examined_is_no_finding(
    images: list[Path], name: Dataset, is_section: bool
) -> None:
    reason = content("CONTAINER", name, content("TEXT", coded("1"), mass(), TextValue="Mass"))
    seen = content("TEXT", coded("121071"), TextValue="no abnormality seen")
    report = report_of(images, seen, reason if is_section else mass(name=name))

    said = read_header(report).segments

    assert [segment.label for segment in said] == ["no abnormality seen"]


def test_an_indication_gives_no_class(gateway: Gateway, two: list[Path], tmp_path: Path) -> None:
    report = report_of(two, mass(name=coded("121109")))

    assert said_of(gateway, tmp_path, report) == dict.fromkeys(["one", "two"], Reason.NO_LABELS)


def test_a_finding_without_images_is_of_all_series_of_the_evidence(
    gateway: Gateway, two: list[Path], tmp_path: Path
) -> None:
    assert said_of(gateway, tmp_path, report_of(two, mass())) == {"one": 1, "two": 1}


@pytest.mark.parametrize("way", ["child", "sibling", "coordinates", "reference", "series"])
def test_a_finding_on_an_image_is_of_its_series_alone(
    gateway: Gateway, two: list[Path], tmp_path: Path, way: str
) -> None:
    image, by_reference = shows(two[1]), Dataset()
    by_reference.RelationshipType = "INFERRED FROM"
    by_reference.ReferencedContentItemIdentifier = [1, 3, 1]
    series = content("UIDREF", coded("121232"), UID=classified.uid("two", "series"))
    measured = content("NUM", coded("1"), mass())
    items = {
        "child": [mass(image)],
        "sibling": [content("CONTAINER", coded("125007"), image, measured)],
        "coordinates": [mass(content("SCOORD", coded("111030"), image, GraphicType="POINT"))],
        "reference": [mass(by_reference), content("CONTAINER", coded("111028"), image)],
        "series": [mass(series)],
    }
    of_all = content("TEXT", coded("121058"), TextValue="CT of the chest")
    report = report_of(two, of_all, *items[way])

    assert said_of(gateway, tmp_path, report) == {"one": Reason.NO_LABELS, "two": 1}


def test_the_nearest_images_decide(gateway: Gateway, two: list[Path], tmp_path: Path) -> None:
    group = content("CONTAINER", coded("125007"), shows(two[1]), mass(shows(two[0])))

    assert said_of(gateway, tmp_path, report_of(two, group)) == {"one": 1, "two": Reason.NO_LABELS}


def test_a_finding_on_images_of_another_study_is_none(
    gateway: Gateway, two: list[Path], tmp_path: Path
) -> None:
    (before,) = classified.write_series(tmp_path, "before", has_blob=True, seed=1, slices=1)
    report = report_of(two, mass(shows(before)))

    assert said_of(gateway, tmp_path, report) == dict.fromkeys(["one", "two"], Reason.NO_LABELS)


def test_the_same_of_each_series_is_of_both(
    gateway: Gateway, two: list[Path], tmp_path: Path
) -> None:
    groups = [
        content(
            "CONTAINER",
            coded("125007"),
            content("TEXT", coded("112039"), TextValue=f"lesion {number}"),
            mass(shows(path)),
        )
        for number, path in enumerate(two)
    ]

    assert said_of(gateway, tmp_path, report_of(two, *groups)) == {"one": 1, "two": 1}


def test_a_report_that_tells_its_series_apart_labels_none(
    gateway: Gateway, two: list[Path], tmp_path: Path
) -> None:
    normal = content("CODE", coded("121071"), shows(two[1]),
                     ConceptCodeSequence=[coded("17621005", "SCT", "Normal")])  # fmt: skip
    report = report_of(two, mass(shows(two[0])), normal)

    assert said_of(gateway, tmp_path, report) == dict.fromkeys(
        ["one", "two"], Reason.LABELS_UNSUPPORTED
    )
