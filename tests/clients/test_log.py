"""A site's own log: lines that are lines, and a size that has an end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from clients.log import LOG, MAX_BYTES, MAX_CHARACTERS, write_log
from federation.config import Site
from federation.errors import PolicyError, UpdateError
from federation.messages import Code

WRITING = """
import sys
from pathlib import Path
from clients import log
from federation.config import Site
from federation.errors import UpdateError
from federation.messages import Code
log.MAX_BYTES = 400_000
site = Site.model_validate(
    {"name": "A", "archives": {"images": "folder:x"}, "data": {}, "work": Path(sys.argv[1])}
)
print("ready", flush=True)
sys.stdin.readline()
for number in range(500):
    log.write_log(site, "train", Code.REQUEST, UpdateError(f"{sys.argv[2]} {number} {'x' * 900}"))
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site.model_validate(
        {
            "name": "A",
            "archives": {"images": "folder:x"},
            "data": {},
            "work": tmp_path / "of" / "work",
        }
    )


def written(site: Site) -> list[str]:
    return (site.work / LOG).read_text(encoding="utf-8").splitlines()


def test_what_a_stranger_wrote_is_one_line_that_prints_and_has_an_end(site: Site) -> None:
    forged = "a\n2026-11-28T00:00:00+00:00 train ok \x1b[31m\u202e\u2028\ud800"
    write_log(site, "train", Code.REQUEST, UpdateError(f"invalid at: {forged}"))
    write_log(site, "train", Code.REQUEST, UpdateError("k" * 10**6))
    write_log(site, "train", Code.REQUEST, UpdateError("\n" * 10**6))
    first, *others = written(site)
    assert first.isprintable()
    assert first.endswith(r"a\n2026-11-28T00:00:00+00:00 train ok \x1b[31m\u202e\u2028\ud800")
    assert [len(line) for line in others] == [MAX_CHARACTERS] * 2
    assert all(line.endswith("…") for line in others)


def test_of_what_is_not_ours_the_last_places_are_kept_and_no_text(site: Site) -> None:
    def deep(left: int) -> None:
        if not left:
            raise ValueError("Doe^Jane")
        deep(left - 1)

    try:
        deep(200)
    except ValueError as error:
        write_log(site, "train", Code.INTERNAL, error)
    first, *places = written(site)
    assert first.endswith("internal ValueError: (text withheld)")
    assert len(places) == 40
    assert all(" in deep" in line for line in places)


def test_the_log_and_its_folder_are_the_owner_s_alone(site: Site) -> None:
    write_log(site, "train", Code.POLICY, PolicyError("no"))
    for path in (site.work.parent, site.work, *site.work.iterdir()):
        assert path.stat().st_mode & 0o077 == 0


def test_at_its_size_another_one_begins_and_two_older_ones_are_kept(site: Site) -> None:
    names = [LOG, f"{LOG}.1", f"{LOG}.2"]
    for number in range(4):
        write_log(site, "train", Code.POLICY, PolicyError(f"number {number}"))
        os.truncate(site.work / LOG, MAX_BYTES)
    write_log(site, "train", Code.POLICY, PolicyError("the last"))
    kept = [(site.work / name).read_bytes().rstrip(b"\0").decode() for name in names]
    assert [text.rstrip().rpartition(": ")[2] for text in kept] == [
        "the last", "number 3", "number 2"
    ]  # fmt: skip
    assert sorted(path.name for path in site.work.glob("client*")) == names


def test_several_processes_lose_no_line_while_another_log_begins(site: Site) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITING, site.work, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "AB"
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0, 0]
    files = [site.work / name for name in (LOG, f"{LOG}.1", f"{LOG}.2")]
    said = [line.split()[4:6] for file in files for line in file.read_text().splitlines()]
    assert sorted(said) == sorted([name, str(number)] for name in "AB" for number in range(500))


def test_where_nothing_can_be_written_it_is_said_on_stderr(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.work.parent.write_bytes(b"")
    write_log(site, "train", Code.POLICY, PolicyError("no\n"))
    write_log(None, "train", Code.POLICY, PolicyError("no site"))
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith(r"PolicyError: no\n")
    assert second.endswith("PolicyError: no site")
