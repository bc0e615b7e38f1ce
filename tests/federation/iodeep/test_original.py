"""Objects of the original IODeep: the authors' sample, what is made like it, and hostile ones."""

import base64
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from federation.errors import CodecError, ConfigError, IODeepError
from federation.iodeep.original import parse_document, read_original, write_original
from tests.peers import peer

SAMPLE = Path(__file__).parents[4] / "shared" / "data" / "original-iodeep" / "unet_mri_head.dcm"
DOCUMENT: dict[str, Any] = {
    "input_shape": {"input_shape0": 8, "input_shape1": 8, "input_shape2": 3, "label_shape": 1},
    "architecture": {"1": "cnn2d"},
    "convolutional": {"cn1": 1},
    "kernel": {"kernel1": 1},
    "backend": {"backend": "pytorch"},
}
needs_sample = pytest.mark.skipif(not SAMPLE.exists(), reason=f"no {SAMPLE.name} in shared data")


def written(path: Path, **changes: Any) -> Path:
    facts: dict[str, Any] = {
        "document": DOCUMENT, "weights": bytes(range(256)) * 50, "name": "unet_mri",
        "modality": "MR", "body_part": "HEAD", "uid": "2.25.7", "study": ("20250101", "120000"),
    }  # fmt: skip
    write_original(path, **{**facts, **changes})
    return path


@needs_sample
def test_the_authors_sample_is_read(tmp_path: Path) -> None:
    found = read_original(SAMPLE)
    assert found.document["architecture"]["3"] == "relu"  # type: ignore[call-overload, index]
    assert str(found.line) == "MR/head/-/unet-mri-head"
    found.copy_weights(tmp_path / "weights")
    assert (tmp_path / "weights").read_bytes()[:2] == b"PK"


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    found = read_original(written(tmp_path / "a.dcm"))
    found.copy_weights(tmp_path / "weights")
    assert found.document == DOCUMENT
    assert (found.name, found.modality, str(found.region)) == (
        "unet_mri",
        "MR",
        "Head (69536005, SCT)",
    )
    assert (tmp_path / "weights").read_bytes() == bytes(range(256)) * 50


def test_the_originals_reader_finds_its_elements(tmp_path: Path) -> None:
    """As their code does: by the tags alone, the dict as text, base64 of the weights."""
    ds = dcmread(written(tmp_path / "a.dcm"))
    assert parse_document(ds[0x0017, 0x0016].value) == DOCUMENT
    assert base64.b64decode(ds[0x0017, 0x0018].value)[:4] == b"\0\1\2\3"
    assert ds[0x0017, 0x0020].value == "unet_mri"
    assert ds[0x0017, 0x0022].value.strip("\0") == "2.25.7"
    assert (ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.BodyPartExamined) == (8, 3, 3, "HEAD")


def test_dcmdump_reads_what_is_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [peer("dcmdump"), str(written(tmp_path / "a.dcm"))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "(0017,0018)" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": "OT"}, "does not say what its network is for"),
        ({"body_part": "NOWHERE"}, "body part unknown"),
        ({"name": "???"}, "Name its line"),
    ],
)
def test_labels_that_make_no_line_are_said(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _ = read_original(written(tmp_path / "a.dcm", **change)).line


def test_a_long_name_makes_a_slug(tmp_path: Path) -> None:
    found = read_original(written(tmp_path / "a.dcm", name="A Net (2D) for Brains, in MRI!" * 2))
    assert found.line.slug == "a-net-2d-for-brains-in-m"


@pytest.mark.parametrize(
    "text",
    [
        "{'a': __import__('os').system('true')}", "{'a': 1e999}", "[1, 2]", "{'a': 1", "",
        "{'a': 0x10}", "{'a': '\\x41'}", "{'a': (1, 2)}", "{'a': f''}", "{'a': 1} or {}",
        "{'a': " + "9" * 400 + "}", "{'a':" * 30000, "[" * 60000,
        "{'a': " + "[" * 20 + "]" * 20 + "}", "{'a': 1.2.3}", "{'é': 1}",
    ],
    ids=range(16),
)  # fmt: skip
def test_an_architecture_that_is_no_plain_dict_is_refused(text: str) -> None:
    with pytest.raises(CodecError):
        parse_document(text)


def test_words_of_python_and_json_are_the_same_document() -> None:
    python = parse_document("{'a': True, 'b': [1, 2.5, -3], 'c': None, \"d\": 'x y'}")
    assert python == {"a": True, "b": [1, 2.5, -3], "c": None, "d": "x y"}
    assert python == parse_document('{"a": true, "b": [1, 2.5, -3], "c": null, "d": "x y"}')


@pytest.mark.parametrize(
    ("text", "document"),
    [
        ("{'a': 0.3333333333333333, 'b': 1e-05}", {"a": 1 / 3, "b": 1e-5}),
        ("{1: 16, 3: '14'}", {"1": 16, "3": "14"}),
        ("{'a': [1, 2,], }", {"a": [1, 2]}),
        (str(DOCUMENT), DOCUMENT),
    ],
)
def test_documents_as_people_write_them_are_read(text: str, document: dict[str, Any]) -> None:
    assert parse_document(text) == document


def test_labels_that_nobody_asked_for_do_not_matter(tmp_path: Path) -> None:
    found = read_original(written(tmp_path / "a.dcm", body_part="LOWER EXTREMITY", name="n" * 300))
    assert found.region is None
    assert len(found.name) == 64


def test_base64_in_lines_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "a.dcm", weights=b"x" * 300)
    raw = path.read_bytes()
    coded = base64.b64encode(b"x" * 300)
    lines = base64.encodebytes(b"x" * 290)
    path.write_bytes(raw.replace(coded, lines.ljust(len(coded), b" ")))
    read_original(path).copy_weights(tmp_path / "weights")
    assert (tmp_path / "weights").read_bytes() == b"x" * 290


@pytest.mark.parametrize("kept", [10, 140, 400, 800, 5000])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = written(tmp_path / "a.dcm")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CodecError):
        read_original(path)


@pytest.mark.parametrize("weights", [b"====", b"abc", b"ab=c" * 9, b"AA==AAAA", "é".encode()])
def test_weights_that_are_no_base64_are_refused(tmp_path: Path, weights: bytes) -> None:
    path = written(tmp_path / "a.dcm", weights=b"x" * 30)
    raw = path.read_bytes()
    coded = base64.b64encode(b"x" * 30)
    path.write_bytes(raw.replace(coded, weights.ljust(len(coded), b"!")))
    with pytest.raises(CodecError, match="no base64"):
        read_original(path).copy_weights(tmp_path / "weights")


def test_a_file_that_is_not_there_or_no_dicom_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_original(tmp_path / "none.dcm")
    (tmp_path / "text.dcm").write_text("no DICOM at all " * 100)
    with pytest.raises(CodecError):
        read_original(tmp_path / "text.dcm")


@pytest.mark.parametrize(
    "inputs", [300, pytest.param(100_000, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])]
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom doubts most of it
def test_no_bytes_do_anything_but_read_or_be_refused(tmp_path: Path, inputs: int) -> None:
    path, weights = tmp_path / "fuzzed.dcm", tmp_path / "weights"
    whole = written(path, weights=bytes(range(64))).read_bytes()

    @settings(
        max_examples=inputs, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        st.lists(
            st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 4), st.binary(max_size=6)),
            max_size=4,
        ),
        st.integers(0, len(whole)),
    )
    @example([], len(whole))
    def read(edits: list[tuple[int, int, bytes]], kept: int) -> None:
        raw = whole
        for place, cut, put in edits:
            raw = raw[:place] + put + raw[place + cut :]
        path.write_bytes(raw if kept % 3 else raw[:kept])
        with suppress(IODeepError):
            found = read_original(path)
            found.copy_weights(weights)
            assert weights.stat().st_size <= len(raw)

    read()


@pytest.mark.parametrize(
    "inputs", [300, pytest.param(100_000, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])]
)
def test_no_text_does_anything_but_parse_or_be_refused(inputs: int) -> None:
    @settings(
        max_examples=inputs, derandomize=True, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.one_of(st.text(alphabet="{}[]:,'\"0123456789.-aTrueFalsNon \\\n", max_size=60),
                     st.text(max_size=60)))  # fmt: skip
    def parse(text: str) -> None:
        with suppress(CodecError):
            assert isinstance(parse_document(text), dict)

    parse()
