"""The report of a run, over folders that the round loop wrote."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from federation.errors import ConfigError
from federation.messages import Code, Refusal
from server.report.folder import RunFolder
from server.report.html import write_report
from server.report.summary import RunMetrics, RunTimings, RunVersions
from tests.server.report.runs import draw_preview, losing, plan, run
from tests.server.test_rounds import Sites, without_one

EVIL = "<script>alert(1)</script> & $\\frac$"


class Page(HTMLParser):
    """What of a page the tests look at: its tags, its text, the cells of each table's rows."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.titles: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._in_cell = False
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "data", "action"):
                self.links.append(value or "")
            if name == "title":
                self.titles.append(value or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data.strip()

    def rows_of(self, first: str) -> list[list[str]]:
        return [row for row in self.rows if row and row[0] == first]


def test_a_report_says_what_the_folder_holds(tmp_path: Path) -> None:
    experiment = plan()
    sites = Sites()
    sites.tricks = dict.fromkeys("ABCD", losing)
    folder = run(tmp_path, experiment, sites)
    draw_preview(folder, "A")
    page = Page(write_report(folder))
    for section in ("results", "data", "curves", "slices", "time", "lineage", "configuration"):
        assert f"#{section}" in page.links
    last = RunMetrics.read(folder).last()
    assert page.text.strip().startswith(str(experiment.line))
    assert "2 of 2 rounds" in page.text
    assert f"{last['test_dice_mean']:.4f}mean test Dice, round 2" in page.text
    assert experiment.digest in page.text
    assert "max_update_ratio = 10.0" in page.text  # a default, written out
    (of_d,) = (row for row in page.rows_of("D") if len(row) == 6)
    assert of_d == ["D", "4", "0", "4", "0", "0"]
    assert {"inner structure", "outer structure"} <= {cell for row in page.rows for cell in row}
    for row in RunMetrics.read(folder).of_site(None):
        assert row["weights_digest"] in page.titles
        assert row["version"] in page.titles
    assert any("A (1), B (2), C (3), D (4)" in row for row in page.rows_of("2"))
    assert any("nothing learnt yet" in row for row in page.rows_of("0"))
    assert RunVersions.read(folder).curve("C") == ([1, 2], [0.5, 0.25])


def test_a_report_is_one_file_that_fetches_and_runs_nothing(tmp_path: Path) -> None:
    folder = run(tmp_path, plan(f"model.labels.1='{EVIL}'", "data='<img src=x onerror=y>'"))
    draw_preview(folder, "A")
    draw_preview(folder, "B")
    page = Page(write_report(folder))
    assert EVIL in page.text
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.tags.count("img") == 4  # curves, times, two slices; none from a value
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    markup = re.sub(r'"data:[^"]*"', "", (folder / "report.html").read_text(encoding="utf-8"))
    assert not re.search(r"https?:|//|url\(|@import", markup.replace("&#34;", ""))
    for link in page.links:
        if link.startswith("data:image/svg"):
            drawing = base64.b64decode(link.partition(",")[2])
            assert not re.search(rb"<script|<image|href=\"(?!#)", drawing)


def test_a_site_that_is_missing_is_named_with_its_reason(tmp_path: Path) -> None:
    sites = Sites()
    sites.deaf.add("A")
    sites.tricks["C"] = without_one
    sites.tricks["D"] = lambda request, answer, update: (
        (answer, update) if request.round == 1 else (Refusal(site="D", code=Code.DATA), update)
    )
    page = Page(write_report(run(tmp_path, plan(), sites)))
    first, second = (
        next(row for row in page.rows_of(number) if "tensors" in row[-1]) for number in "12"
    )
    assert first[4] == "B (2), D (4)"
    assert re.search("A did not train: .*C did not train: .*A did not evaluate: ", first[-1])
    assert "A did not train: the site's archive refused or failed (archive)" in first[-1]
    assert "C did not train: 1 tensors are missing" in first[-1]
    assert second[4] == "B (2)"
    assert "D did not train: the site has too few usable labelled studies" in second[-1]
    (result,) = (row for row in page.rows_of("A") if len(row) > 8)
    assert result[1:3] == ["0", "-"]
    assert "archive refused" in result[-1]


def test_a_site_that_trained_after_the_run_was_taken_up_is_not_missing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    told = {"round": 1, "work": "train", "site": "C", "seconds": {}, "problem": "it was killed"}
    (folder / "timings.jsonl").write_text(json.dumps(told) + "\n", encoding="utf-8")
    page = Page(write_report(run(folder, plan())))
    assert "it was killed" not in page.text
    assert "did not train" not in page.text


def test_cases_that_are_not_used_are_counted_by_reason_and_not_named(tmp_path: Path) -> None:
    folder = run(tmp_path, plan())
    noted = folder / "sites" / "B" / "not-imported.jsonl"
    noted.parent.mkdir(parents=True)
    lines = [{"case": "MUELLER^ANNA", "problem": "label-missing"}] * 2
    noted.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    metrics = folder / "metrics.jsonl"
    text = metrics.read_text(encoding="utf-8")
    metrics.write_text(
        text.replace('"quarantined": {}', '"quarantined": {"no-labels": 3}'), encoding="utf-8"
    )
    page = Page(write_report(folder))
    (row,) = (row for row in page.rows_of("B") if len(row) == 6)
    assert row[4:] == ["3: no-labels (3)", "2: label-missing (2)"]
    assert "MUELLER" not in (folder / "report.html").read_text(encoding="utf-8")


def test_a_report_of_a_taken_up_run_has_all_rounds(tmp_path: Path) -> None:
    experiment = plan()
    folder = run(tmp_path, experiment)
    before = Page(write_report(folder))
    run(folder, experiment)
    after = Page(write_report(folder))
    assert after.titles == before.titles
    assert after.rows == before.rows


def test_a_report_without_slices_or_timings_has_the_rest(tmp_path: Path) -> None:
    folder = run(tmp_path, plan())
    (folder / "timings.jsonl").unlink()
    page = Page(write_report(folder))
    assert "No timings were kept" in page.text
    assert "#slices" not in page.links
    assert page.tags.count("img") == 1


def test_times_add_up(tmp_path: Path) -> None:
    folder = run(tmp_path, plan())
    timings = RunTimings.read(folder)
    assert list(timings.by_who) == ["A", "B", "C", "D", "aggregator"]
    assert set(timings.by_round) == set(timings.wall) == {0, 1, 2}
    of_who = sum(sum(spent.values()) for spent in timings.by_who.values())
    of_rounds = sum(sum(spent.values()) for spent in timings.by_round.values())
    assert of_who == pytest.approx(of_rounds)


def test_a_folder_without_a_finished_round_has_no_report(tmp_path: Path) -> None:
    RunFolder(tmp_path)
    (tmp_path / "metrics.jsonl").write_text('{"round": 0, "site": "A"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="no run with a finished round"):
        write_report(tmp_path)
