"""A run among hospitals: started on the aggregator's machine, followed, and what came of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

from federation.config import Experiment
from federation.errors import ConfigError
from federation.pacs.address import parse_address
from federation.registry import new_branch
from server.aggregator.control import Control
from server.aggregator.home import Home
from server.aggregator.membership import check_approved
from server.aggregator.runs import Started, check_completed, find, follow, start
from server.report.summary import RunMetrics, read_lines
from server.start import pinned


def begin(home: Home, experiment: Experiment, *, resume: Path | None = None) -> Started:
    """Start a run of rounds. The run goes on when the command that began it has ended.

    resume: the folder of one that was interrupted

    Raises :class:`ConfigError` for a site that is not approved, or a folder of another run, and
    :class:`~federation.errors.FlowerError` where the SuperLink cannot be reached.
    """
    check_approved(home, experiment)
    if experiment.strategy.name != "fedavg":
        raise ConfigError(
            f'strategy "{experiment.strategy.name}" is a yardstick of simulations; hospitals that '
            "keep their data cannot pool it"
        )
    experiment = pinned(_absolute(experiment))
    with Control(home) as control:
        if resume is None:
            branch = new_branch(experiment.name)
        else:
            begun = find(home, resume.name)
            _check_ended(control, begun)
            branch = begun.folder.name
        return start(home, control, branch, work="rounds", experiment=experiment.model_dump_json())


def watch(home: Home, started: Started, tell: Callable[[str], None]) -> None:
    """Tell of each finished round and each answer that does not count, until the run has ended.

    Raises :class:`~federation.errors.RoundError` where it failed.
    """
    told = _Told(started.folder)
    with Control(home) as control:
        for run in follow(control, started):
            for line in told.news():
                tell(line)
            if run.is_finished:
                check_completed(run, started)


class _Told:
    """What a run's folder says that was not told yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._problems = 0
        self._round = -1

    def news(self) -> Iterator[str]:
        """A line for each answer that does not count, and for each finished round."""
        path = self._folder / "timings.jsonl"
        problems = [line for line in read_lines(path) if line["problem"]] if path.exists() else []
        for line in problems[self._problems :]:
            yield (
                f"round {line['round']}: {line['site']} does not count ({line['work']}): "
                f"{line['problem']}"
            )
        self._problems = len(problems)
        if not (self._folder / "metrics.jsonl").exists():
            return
        metrics = RunMetrics.read(self._folder)
        for row in metrics.score_table():
            if row["round"] > self._round and "test mean" in row:
                self._round = row["round"]
                sites = "  ".join(f"{site} {_number(row[site])}" for site in metrics.sites)
                yield (
                    f"round {row['round']}: test {metrics.task.word} {_number(row['test mean'])}, "
                    f"validation {_number(row['validation mean'])}  ({sites})"
                )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _check_ended(control: Control, started: Started) -> None:
    (run,) = control.runs(started.number)
    if not run.is_finished:
        raise ConfigError(
            f"run {started.folder.name} has not ended ({run.state}); follow it with --attach"
        )


def _absolute(experiment: Experiment) -> Experiment:
    """The experiment with files that it names relative to here, for a process that is elsewhere."""
    given = experiment.model.start
    if given is None:
        return experiment
    there = given.model_copy(
        update={
            "archive": str(parse_address(given.archive).beside(Path.cwd())),
            "signers": tuple(path.resolve() for path in given.signers),
        }
    )
    return experiment.model_copy(
        update={"model": experiment.model.model_copy(update={"start": there})}
    )
