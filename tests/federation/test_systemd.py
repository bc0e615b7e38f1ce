"""Units of systemd: they say what was asked for, and systemd understands them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from federation.errors import ConfigError
from federation.systemd import unit


def test_what_a_unit_starts_gets_no_more_memory_than_was_said(tmp_path: Path) -> None:
    assert "\nMemoryMax=75%\n" in unit("it", ["server"], folder=tmp_path, memory="75%")
    assert "\nMemoryMax=infinity\n" in unit("it", ["server"], folder=tmp_path)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    path = tmp_path / "iodeep-aggregator.service"
    path.write_text(unit("it", ["server", "serve", "a b"], folder=tmp_path, memory="75%"))
    done = subprocess.run(
        ["systemd-analyze", "verify", path], capture_output=True, text=True, check=False
    )
    assert path.name not in done.stderr


def test_a_word_that_a_unit_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a unit of systemd cannot hold"):
        unit("it", ['"'], folder=tmp_path)
