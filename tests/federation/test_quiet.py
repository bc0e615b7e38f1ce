"""Nothing that a library says repeats a DICOM value."""

import subprocess
import sys
from pathlib import Path

import pytest

READS_A_NAME = """
import logging, sys
from pydicom import dcmread
{quiet}
logging.basicConfig()
dcmread(sys.argv[1]).StudyInstanceUID
"""
QUIET = "from federation.quiet import keep_libraries_quiet; keep_libraries_quiet()"


@pytest.mark.parametrize(("quiet", "said"), [("", True), (QUIET, False)])
def test_a_warning_repeats_no_value(tmp_path: Path, quiet: str, said: bool) -> None:
    value = b"MUELLER^ANNA"
    path = tmp_path / "odd.dcm"
    path.write_bytes(
        b"\0" * 128 + b"DICM"
        b"\x02\0\0\0UL\x04\0\x1c\0\0\0\x02\0\x10\0UI\x14\x001.2.840.10008.1.2.1\0"
        b"\x20\0\x0d\0UI" + len(value).to_bytes(2, "little") + value
    )
    process = subprocess.run(
        [sys.executable, "-c", READS_A_NAME.format(quiet=quiet), str(path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ("MUELLER" in process.stderr) is said
