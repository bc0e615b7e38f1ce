"""Bytes from outside that are nearly right: whatever is changed in them, they are read or refused.

Refused means a :class:`CodecError`; nothing else comes out, and no input takes long or memory.
"""

import copy
import json
import logging
import math
import re
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import rfc8785
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from pydicom import dcmread

from benchmarks.measure import extra_bytes
from federation.errors import CodecError
from federation.iodeep.codec import read_manifest, read_record, write_record
from federation.iodeep.header import instance_header
from federation.iodeep.manifest import AnyManifest, ReleaseManifest, StateManifest, parse_manifest
from federation.iodeep.weights import join, part_chunks, read_part, weights_digest
from tests.federation.iodeep.records import LINE, evaluation, tensors, version
from tests.federation.iodeep.test_codec import STAMP

Input = TypeVar("Input")
Edit = tuple[int, int, bytes]  # place, bytes cut there, bytes put there
Change = tuple[int, str, str, Any]  # place, what is done there, a name, a value

INPUTS = pytest.mark.parametrize(
    "inputs", [400, pytest.param(100_000, marks=[pytest.mark.soak, pytest.mark.timeout(7200)])]
)
BATCH = 1000  # hypothesis remembers all inputs of a run, and slows down with them
MAX_EXTRA_BYTES = 60 * 10**6  # hypothesis' own included; a length that lies claims gigabytes
MAX_SECONDS = 5.0  # of processor time for one input
MAX_MESSAGE = 1000  # characters: a message is for people, and not the place for what was read
LIES = [0, 1, 7, 95, 2**16 - 1, 2**20 + 1, 2**31 - 2, 2**31, 2**32 - 2, 2**32 - 1]


def fuzz(inputs: int, given_: st.SearchStrategy[Input], read: Callable[[Input], None]) -> None:
    """Call ``read`` with that many inputs, the same in every run."""
    slowest = 0.0
    longest = tried = 0

    def timed(value: Input) -> None:
        nonlocal slowest, longest, tried
        begin = time.process_time()
        try:
            read(value)
        except CodecError as error:
            longest = max(longest, len(str(error)))
        slowest = max(slowest, time.process_time() - begin)
        tried += 1

    def some(number: int, count: int) -> None:
        chosen = settings(
            max_examples=count, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        seed(number)(chosen(given(given_)(timed)))()

    def all_of_them() -> None:
        for number in range(0, inputs, BATCH):
            some(number, min(BATCH, inputs - number))

    some(-1, 20)  # whatever is imported and tabulated once
    assert extra_bytes(all_of_them) < MAX_EXTRA_BYTES
    assert slowest < MAX_SECONDS
    assert longest < MAX_MESSAGE
    assert tried >= inputs


def edits(size: int, lengths: list[int]) -> st.SearchStrategy[list[Edit]]:
    """Bytes changed, put in, taken out or cut off; and lengths that lie, before ``lengths``."""
    lies = [struct.pack(code, lie) for code in ("<I", "<H") for lie in LIES if lie < 2**16 or
            code == "<I"]  # fmt: skip
    anywhere = st.integers(0, size - 1)
    lie = st.tuples(st.sampled_from(lengths), st.sampled_from(lies)).map(
        lambda drawn: (drawn[0] - len(drawn[1]), len(drawn[1]), drawn[1])
    )
    return st.lists(
        st.one_of(
            st.tuples(anywhere, st.integers(0, 8), st.binary(max_size=8)),
            st.tuples(anywhere, st.just(1), st.binary(min_size=1, max_size=1)),
            lie,
            st.tuples(anywhere, st.just(size), st.just(b"")),
        ),
        min_size=1,
        max_size=4,
    )


def edited(raw: bytes, changes: list[Edit]) -> bytes:
    for place, cut, put in sorted(changes, reverse=True):  # from the end: no place moves
        raw = raw[:place] + put + raw[place + cut :]
    return raw


def restructure(document: dict[str, Any], place: int, change: str, name: str, value: Any) -> None:
    """Set, rename or remove the value at ``place``, or add one beside it, however deep it lies."""
    places = list(walk(document))
    if not places:
        return
    where, key = places[place % len(places)]
    value = copy.deepcopy(value)
    if change == "set":
        where[key] = value
    elif change == "remove":
        del where[key]
    elif isinstance(where, list):
        where.insert(key, value)
    else:
        where[name] = where.pop(key) if change == "name" else value


def walk(node: Any) -> Any:
    """Every container and key in it, from the outside in."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from walk(node[key])


# --- records ------------------------------------------------------------------------------


@INPUTS
@pytest.mark.parametrize("instance", ["manifest", "part"])
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_file_of_a_record_is_what_was_written_or_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, inputs: int, instance: str
) -> None:
    caplog.set_level(logging.CRITICAL, "pydicom")  # pytest would keep every one of its warnings
    manifest, parts = version()
    written = {name: bytes(tensor.data) for name, tensor in tensors().items()}
    part, first = paths = write_record(tmp_path, manifest, parts, STAMP)
    changed = {"manifest": first, "part": part}[instance]
    whole = changed.read_bytes()

    def read(changes: list[Edit]) -> None:
        changed.write_bytes(edited(whole, changes))
        with suppress(CodecError):
            assert read_manifest(first)[0] == manifest
        record = read_record(paths)
        found = record.tensors()
        record.verify()
        assert record.manifest == manifest
        assert {name: bytes(tensor.data) for name, tensor in found.items()} == written

    read([])
    fuzz(inputs // 2, edits(len(whole), where_values_begin(changed)), read)


def where_values_begin(path: Path) -> list[int]:
    """A length stands before each."""
    found = []
    ds = dcmread(path, defer_size=1)
    for part in (ds.file_meta, ds):
        for tag in part:
            element = part.get_item(tag.tag, keep_deferred=True)
            found.append(getattr(element, "value_tell", None) or element.file_tell)
    return [place for place in found if place]


# --- weights ------------------------------------------------------------------------------

POWER = st.sampled_from([31, 32, 33, 63, 64, 13_000, 14_000]).map(lambda bits: 2**bits)
NUMBER = st.one_of(st.integers(-2, 40), POWER, POWER.map(lambda number: -number))
ODD = st.one_of(
    NUMBER,
    st.none(),
    st.booleans(),
    st.sampled_from([float("nan"), float("inf"), -0.0, 2.0, 1e300, "", "F32", "8", [], {}]),
)
NAME = st.one_of(
    st.sampled_from(["a", "b", "c.weight", "__metadata__", "", "\ud800", "é", "a\nb", "x" * 300]),
    st.text(max_size=4),
)
DTYPE = st.sampled_from(["F32", "F32", "U8", "I64", "BF16", "F99", "f32"])
PLAUSIBLE = st.lists(st.integers(0, 4), max_size=3).map(
    lambda shape: {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * math.prod(shape)]}
)  # no lie where it is alone and its name is a name
LYING = st.fixed_dictionaries(
    {
        "dtype": DTYPE | ODD,
        "shape": st.lists(NUMBER | ODD, max_size=10) | ODD,
        "data_offsets": st.lists(NUMBER | ODD, max_size=3) | st.tuples(NUMBER, NUMBER) | ODD,
    },
    optional={"more": ODD},
)
NESTED = st.tuples(st.sampled_from(["[", '{"a":']), st.sampled_from([3, 900, 50_000])).map(
    lambda drawn: (drawn[0] * drawn[1]).encode()
)
ENTRIES = st.lists(st.tuples(NAME, PLAUSIBLE | LYING | ODD), max_size=4).map(
    lambda pairs: "{" + ",".join(f"{json.dumps(n)}:{json.dumps(e)}" for n, e in pairs) + "}"
)  # by hand, so that names can occur twice
HEADER = st.one_of(
    ENTRIES.map(str.encode),
    ENTRIES.map(str.encode),
    ENTRIES.map(lambda text: text.encode("utf-16")),
    NESTED,
    st.binary(max_size=40),
)
LENGTH = st.one_of(st.none(), st.none(), st.sampled_from([*LIES, 2**63, 2**64 - 1]))
SIZE = st.one_of(st.sampled_from([0, 4, 8, 16, 64]), st.integers(0, 80))
CHANGES = st.lists(
    st.tuples(st.integers(0, 100), st.sampled_from(["set", "set", "name", "add", "remove"]),
              NAME, ODD),
    min_size=1,
    max_size=3,
)  # fmt: skip


@INPUTS
def test_a_header_of_weights_that_lies_is_refused(inputs: int) -> None:
    def read(drawn: tuple[bytes, int | None, int]) -> None:
        text, length, size = drawn
        read_weights(as_part(text, bytes(size), length))

    read((b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', None, 8))
    fuzz(inputs, st.tuples(HEADER, LENGTH, SIZE), read)


@INPUTS
def test_a_changed_part_of_weights_is_read_or_refused(inputs: int) -> None:
    whole = b"".join(bytes(chunk) for chunk in part_chunks(tensors()))
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])

    def restructured(changes: list[Change]) -> bytes:
        changed = copy.deepcopy(header)
        for change in changes:
            restructure(changed, *change)
        return as_part(json.dumps(changed).encode(), whole[end:])

    read_weights(whole)
    fuzz(
        inputs,
        st.one_of(
            edits(len(whole), [4, 8]).map(lambda changes: edited(whole, changes)),
            edits(end, [4, 8]).map(lambda changes: edited(whole[:end], changes) + whole[end:]),
            CHANGES.map(restructured),
        ),
        read_weights,
    )


def as_part(header: bytes, data: bytes, length: int | None = None) -> bytes:
    """With the header's length, or another."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def read_weights(part: bytes) -> None:
    """What is read lies in the part without holes, and has a digest."""
    found = read_part(memoryview(part))
    assert len(weights_digest(join([found]))) == 64
    assert sum(tensor.nbytes for tensor in found.values()) == len(part) - 8 - int.from_bytes(
        part[:8], "little"
    )


# --- manifests ----------------------------------------------------------------------------

DEEP = re.compile(rb'"@(\d+)@"')
VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 20),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from([2**31, 2**53 - 1, 2**53, 2**64, 10**30, "\ud800", "x" * 70, "..", "*", "\\",
                     "MR", "VERSION", "RELEASE", "0" * 64, "1.2.3", [], {}, [[]], {"a": 1}]),
    st.sampled_from([10, 100, 250, 300, 900, 5000]).map("@{}@".format),  # as many brackets
)  # fmt: skip
WORD = st.sampled_from(["x", "A", "é", "\ud800", "a\nb", "x" * 70, "@900@"])
RESTRUCTURING = st.lists(
    st.tuples(st.integers(0, 100), st.sampled_from(["set", "set", "name", "add", "remove"]),
              WORD, VALUE),
    min_size=1,
    max_size=3,
)  # fmt: skip


def manifests() -> list[AnyManifest]:
    manifest = version(round=1)[0]
    state = StateManifest(
        line=LINE, branch="main", round=1, of=manifest.reference, by="A", weights=manifest.weights
    )
    release = ReleaseManifest(
        line=LINE, branch="main", round=1, of=manifest.reference, series=manifest.series_uid,
        number=1, action="promote",
    )  # fmt: skip
    return [manifest, state, evaluation(manifest), release]


@INPUTS
@pytest.mark.filterwarnings("error::UserWarning:pydicom")
def test_a_changed_manifest_is_read_or_refused(inputs: int) -> None:
    canonical = [manifest.canonical for manifest in manifests()]
    documents = [json.loads(text) for text in canonical]

    def restructured(drawn: tuple[int, list[Change]]) -> bytes:
        which, changes = drawn
        document = copy.deepcopy(documents[which])
        for change in changes:
            restructure(document, *change)
        return as_text(document)

    changed_bytes = st.one_of(
        edits(len(text), [8]).map(lambda changes, text=text: edited(text, changes))
        for text in canonical
    )
    structure = st.tuples(st.integers(0, len(documents) - 1), RESTRUCTURING).map(restructured)
    for text in canonical:
        read_and_use(text)
    fuzz(inputs, st.one_of(structure, structure, changed_bytes), read_and_use)


def read_and_use(text: bytes) -> None:
    """What is read is canonical, and makes the attributes of an instance."""
    manifest = parse_manifest(text)
    assert manifest.canonical == text
    ds = instance_header(manifest, 1, 1, STAMP)
    assert ds.SeriesNumber is not None
    assert ds.PatientID == manifest.line.patient_id
    assert parse_manifest(manifest.canonical) == manifest


def as_text(document: object) -> bytes:
    """Canonical where it can be."""
    try:
        text = rfc8785.dumps(document)
    except ValueError:
        text = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    return DEEP.sub(lambda found: b"[" * int(found[1]) + b"]" * int(found[1]), text)
