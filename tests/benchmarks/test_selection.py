"""The cases of selection: how many there are, and that the page says what is measured."""

from collections import Counter

from benchmarks import selection


def test_the_page_is_what_the_command_writes() -> None:
    outcomes = list(selection.measure(selection.read_cases()))
    assert len(outcomes) >= 200
    assert {outcome.case.kind for outcome in outcomes} == set(selection.KINDS)
    page = selection.PAGE.read_text(encoding="utf-8")
    assert page.endswith(selection.tables(outcomes))


def test_a_wrong_network_is_rare() -> None:
    verdicts = Counter(o.verdict for o in selection.measure(selection.read_cases()))
    assert verdicts["wrong"] <= 0.05 * verdicts.total()
    assert verdicts["abstained"] <= 0.05 * verdicts.total()
