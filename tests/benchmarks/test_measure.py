"""The harness measures, and the page says what it measured."""

import sys
import time
from pathlib import Path

import pytest

from benchmarks.measure import (
    Times,
    alternate,
    begin_when_ready,
    extra_bytes,
    in_turns,
    profile,
    run_process,
)
from benchmarks.table import Row, machine, page


def test_sides_take_turns_and_are_warmed_up() -> None:
    called: list[str] = []
    sides = in_turns(lambda: called.append("a"), lambda: called.append("b"), turns=3)
    assert "".join(called) == "ab" + "ab" + "ba" + "ab"
    assert [len(times.seconds) for times in sides] == [3, 3]


def test_every_side_has_its_turn_at_being_first() -> None:
    assert list(alternate("abc", turns=3)) == list("abcbcacab")


def test_time_is_what_passes() -> None:
    (slept,) = in_turns(lambda: time.sleep(0.02), turns=2)
    assert slept.median >= 0.02
    assert str(Times(seconds=[0.001, 0.003, 0.002])) == "2 ms (1 to 3)"


def test_a_ratio_compares_what_was_measured_in_the_same_turn() -> None:
    ratio = Times(seconds=[1, 10, 3]).over(Times(seconds=[2, 20, 3]))
    assert ratio.median == 0.5  # the medians' ratio would be 1: they are of different turns
    assert str(ratio).startswith("0.50 to 1.00 in 3 turns; 3 s (1 to 10) / 3 s (2 to 20)")


def test_memory_is_the_most_that_was_held_at_once() -> None:
    size = 50_000_000
    held = extra_bytes(lambda: [bytearray(b"x") * size for _ in range(3)] and None)
    assert 2.5 * size < held < 4 * size
    assert extra_bytes(lambda: None) < size / 10


def test_a_process_is_measured_with_its_children() -> None:
    size = 60_000_000
    held = f"x = bytearray(b'x') * {size}; import time; time.sleep(1.2)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {held!r}]); print('ok')"
    finished = run_process([sys.executable, "-c", code])
    assert finished.printed == "ok\n"
    assert finished.seconds > 1
    assert len(finished.holders) == 2
    assert size < finished.peak_bytes < 3 * size


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"failed with 1(.|\n)*no such luck"):
        run_process([sys.executable, "-c", "raise SystemExit('no such luck')"])


def test_anonymous_memory_is_what_a_process_holds_itself_once_it_begins(tmp_path: Path) -> None:
    size = 40_000_000
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    code = f"""
import mmap, sys
from benchmarks.measure import when_told
before = bytearray(b'x') * {size}
when_told()
with open({str(path)!r}, 'rb') as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
print(sum(mapped[::4096]), flush=True)
held = bytearray(b'x') * {size}
print('held', flush=True)
sys.stdin.readline()
"""
    with begin_when_ready([sys.executable, "-c", code]) as (process, growth):
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        assert growth[0].bytes < size / 2
        assert process.stdout.readline() == "held\n"
    assert 0.9 * size < growth[0].bytes < 1.5 * size


def test_a_process_that_ends_before_it_is_ready_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="before it was ready"), begin_when_ready(["true"]):
        pass


def row(value: float) -> Row:
    return Row(what="one / other", value=value, bound=1.1, shown="2 s / 1 s")


def test_the_page_says_what_is_met_and_what_holds_the_rest_back() -> None:
    rows = [row(1.1), row(1.2).explained(lambda: "the slow one")]
    text = page(rows, machine=machine(), data="built-in phantoms")
    assert "| one / other | 1.1 x | 1.1 x | met | 2 s / 1 s |" in text
    assert "| one / other | 1.2 x | 1.1 x | not met | 2 s / 1 s |" in text
    assert "the slow one" in text
    assert "- Federations on: built-in phantoms" in text


def test_no_profile_is_taken_where_the_bound_is_met() -> None:
    met = row(1.0).explained(lambda: pytest.fail("there is nothing to explain"))
    assert met.profile == ""


def test_a_profile_names_the_slow_function() -> None:
    def dawdle() -> int:
        return sum(n * n for n in range(200_000))

    assert "genexpr" in profile(dawdle)
    assert "dawdle" in profile(dawdle, of=r"test_measure")


def test_a_profile_names_files_from_the_project_s_folder() -> None:
    said = profile(
        lambda: Row(what="", value=0, bound=1, shown="").explained(str), of="/benchmarks/"
    )
    assert "benchmarks/table.py" in said
    assert str(Path(__file__).parents[2]) not in said
