"""`iodeep site predict`: studies, one after another, printed as they are done."""

from collections.abc import Sequence
from dataclasses import asdict

from clients.hospital import Hospital
from clients.inference.worker import Outcome, Worker
from federation.commands.output import print_json, print_table, short
from federation.commands.progress import steps_done
from federation.config import Site
from federation.errors import ConfigError
from federation.iodeep.labels import Line
from federation.pacs.attributes import is_uid


def run_predictions(
    site: Site,
    studies: Sequence[str],
    model: str | None,
    version: str | None,
    series: str | None,
    *,
    as_json: bool,
) -> bool:
    """Predict on studies and print what became of each; whether all have a result."""
    for uid in (*studies, *([series] if series else [])):
        if not is_uid(uid):
            raise ConfigError(
                f"{uid!r:.80} is no UID; expected a Study Instance UID, such as 1.2.3"
            )
    outcomes: list[Outcome] = []
    with Hospital(site) as hospital, steps_done("Studies") as progress:
        forced = None if model is None else hospital.named(Line.parse(model), version)
        worker = Worker(hospital, forced=forced)
        for done, study in enumerate(dict.fromkeys(studies), start=1):
            outcomes += worker.predict(study, only=series)
            progress(done, len(studies))
    if as_json:
        print_json([asdict(outcome) for outcome in outcomes])
    else:
        print_table("", [_shown(outcome) for outcome in outcomes])
    return bool(outcomes) and all(outcome.is_done for outcome in outcomes)


def _shown(outcome: Outcome) -> dict[str, object]:
    volumes = outcome.volumes_ml or {}
    return {
        "study": outcome.study,
        "series": short(outcome.series),
        "": outcome.state,
        "version": short(outcome.version),
        "SEG": short(outcome.seg),
        "ml": ", ".join(f"{name} {ml:.3g}" for name, ml in volumes.items()),
        "s": f"{outcome.seconds:.1f}",
        "remark": outcome.detail,
    }
