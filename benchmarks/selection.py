"""``python -m benchmarks.selection`` writes docs/selection.md: how often selection is right.

The cases were written by somebody who had not seen the program, as tags look in hospitals.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from federation.iodeep.architecture import Architecture, Preprocessing
from federation.iodeep.labels import Line
from federation.iodeep.manifest import Lineage, Part, VersionManifest, Weights
from federation.selection import ImageFacts, Model, select
from federation.selection.image import is_localizer, snomed_ct

CASES = {
    "Cases by which its words and rules were mended": "selection.csv",
    "Cases written afterwards": "selection-unseen.csv",
}
ABSTAIN = "abstain"
KINDS = {
    "complete": "tags all there and right",
    "missing": "tags absent",
    "wrong": "a tag holds nonsense, or a default",
    "foreign": "German, French, Italian, Spanish, Dutch, Portuguese",
    "contradictory": "tags speak of different regions",
    "vague": "descriptions that do not say of what",
    "typo": "typing errors, abbreviations",
    "legacy": "SNOMED RT codes, old spellings",
    "unsuitable": "no network is for it, colour, scouts, single slices",
}
PAGE = Path(__file__).parents[1] / "docs" / "selection.md"
_MARK = "<!-- written by make selection from here on -->"
_SLICES = ("DX", "MG", "US")


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """An image series, and the line that suits it, or ABSTAIN."""

    group: str
    name: str
    kind: str
    facts: ImageFacts
    expected: str
    remark: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What selection made of a case: a line, or ABSTAIN for the reason given."""

    case: Case
    chosen: str
    reason: str

    @property
    def verdict(self) -> str:
        if self.chosen == self.case.expected:
            return "right" if self.chosen != ABSTAIN else "rightly abstained"
        return "abstained" if self.chosen == ABSTAIN else "wrong"


def main() -> None:
    """Measure, and write the page below its mark."""
    outcomes = list(measure(read_cases()))
    above = PAGE.read_text(encoding="utf-8").partition(_MARK)[0]
    PAGE.write_text(f"{above}{_MARK}\n{tables(outcomes)}", encoding="utf-8")
    print(PAGE)


def read_cases() -> list[Case]:
    """All cases, in their order."""
    cases = []
    for group, name in CASES.items():
        with (Path(__file__).parent / name).open(encoding="utf-8", newline="") as file:
            cases += [_case(row, group) for row in csv.DictReader(file)]
    return cases


def measure(cases: Sequence[Case]) -> Iterator[Outcome]:
    """What selection chooses in each case, among the networks that any of them expects."""
    lines = [Line.parse(name) for name in sorted({c.expected for c in cases} - {ABSTAIN})]
    models = {line: Model(version=_version(line)) for line in lines}
    for case in cases:
        found = select(case.facts, lines, models.get)
        chosen = ABSTAIN if found.problem else str(found.suited[0].line)
        yield Outcome(case=case, chosen=chosen, reason=found.problem or "")


def tables(outcomes: Sequence[Outcome]) -> str:
    """A section for each group of cases, as Markdown."""
    return "".join(
        f"\n### {group}\n\n{_table([one for one in outcomes if one.case.group == group])}"
        for group in CASES
    )


def _case(row: Mapping[str, str], group: str) -> Case:
    value, _, scheme = row["region_code"].partition(" ")
    code = snomed_ct(value, scheme) if value else None
    return Case(
        group=group,
        name=row["id"],
        kind=row["kind"],
        facts=ImageFacts(
            modality=row["modality"],
            images=int(row["images"]),
            is_projection=row["projection"] == "yes",
            samples=int(row["samples"]),
            photometric=row["photometric"],
            regions=(code,) if code else (),
            body_part=row["body_part"],
            series=row["series_description"],
            study=row["study_description"],
            is_scout=is_localizer(row["image_type"]),
        ),
        expected=row["expected"],
        remark=row["why"],
    )


def _version(line: Line) -> VersionManifest:
    axes = 2 if line.modality in _SLICES else 3
    return VersionManifest(
        line=line,
        branch="main",
        round=1,
        architecture=Architecture(network="monai.UNet", arguments={"spatial_dims": axes}),
        preprocessing=Preprocessing(spacing_mm=(1.0,) * axes, size=(64,) * axes),
        outputs=(),
        lineage=Lineage(config_digest="0" * 64),
        weights=Weights(digest="0" * 64, parameters=1, parts=(Part(bytes=1, sha256="0" * 64),)),
    )


def _table(outcomes: Sequence[Outcome]) -> str:
    by_kind: defaultdict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_kind[outcome.case.kind].append(outcome)
    rows = [(kind, KINDS[kind], by_kind[kind]) for kind in KINDS if kind in by_kind]
    verdicts = ("right", "rightly abstained", "abstained", "wrong")
    lines = [
        f"| kind | | cases | {' | '.join(verdicts)} |",
        f"|---|---|{'---|' * (len(verdicts) + 1)}",
    ]
    for kind, meaning, some in [*rows, ("**all**", "", list(outcomes))]:
        counts = Counter(outcome.verdict for outcome in some)
        cells = " | ".join(str(counts[verdict]) for verdict in verdicts)
        lines.append(f"| {kind} | {meaning} | {len(some)} | {cells} |")
    lines += ["", "What was chosen wrongly:", ""]
    lines += list(_wrong(outcomes)) or ["nothing."]
    return "\n".join(lines) + "\n"


def _wrong(outcomes: Iterable[Outcome]) -> Iterator[str]:
    for outcome in outcomes:
        if outcome.verdict == "wrong":
            facts = outcome.case.facts
            yield (
                f"- {outcome.case.name} ({outcome.case.kind}): {facts.modality}, body part "
                f"`{facts.body_part}`, `{facts.series}`, `{facts.study}`: {outcome.chosen}; "
                f"expected {outcome.case.expected} ({outcome.case.remark})"
            )


if __name__ == "__main__":
    main()
