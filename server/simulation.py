"""Hospitals and aggregator on one machine, each with an archive of its own.

Only this composition knows both sides, and it loads them by reference, as Flower does:
archives are served over DICOM associations on loopback, sites have documents like any
hospital's, and the two Flower apps are those of a deployment.
"""

import fcntl
import importlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import tomli_w
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from federation.config import POOLED, Experiment
from federation.errors import ConfigError, DataError
from federation.grid import Budget, InProcessGrid, WorkerGrid
from federation.iodeep.manifest import AGGREGATOR
from federation.iodeep.signature import SigningKey
from federation.pacs import Archive, ArchiveServer, open_gateway
from federation.pacs.address import parse_address
from federation.samples.case import Case
from federation.samples.decathlon import read_manifest
from federation.samples.importer import Quarantined, Stored, import_cases
from federation.samples.phantom import phantom_cases
from server.report.folder import write_whole

PHANTOM = "phantom"
PHANTOM_CASES = 12  # per site, with PHANTOM_TEST_CASES more held out
PHANTOM_TEST_CASES = 4

NOT_IMPORTED = "not-imported.jsonl"  # the cases left out; written when all others are stored
KEY = "aggregator.key"
_SITE_KEY = "site.key"
_LOCK = "lock"
_BRANCH = "branch"
_ELSEWHERE = "archives.json"
_SERVER_APP = "server.app:app"
_CLIENT_APP = "clients.app:app"


class Simulation:
    """Hospitals and an aggregator below one folder, their archives served while it is open.

    archives/NAME   the archive of a site, or of the aggregator, where it has none elsewhere
    sites/NAME      a hospital's own folder: its document, its keys, its work folder
    archives.json   addresses of the archives that are elsewhere
    branch          the name of the branch that is written
    aggregator.key  the private key that signs every version; sites trust its public half
    """

    def __init__(self, experiment: Experiment, out: Path, *, resume: bool = False) -> None:
        """``resume`` goes on with what an interrupted simulation left in ``out``.

        Raises :class:`ConfigError` where ``out`` holds something already, and must not; or the
        other way round.
        """
        begun = (out / _LOCK).exists()
        if resume and not begun:
            raise ConfigError(f"{out} holds no run to resume; start one without --resume")
        if not resume and out.exists() and any(out.iterdir()):
            hint = "give another folder with --out" + (", or --resume" if begun else "")
            raise ConfigError(f"{out} is not empty; {hint}")
        self._elsewhere = {
            name: str(parse_address(address).beside(Path.cwd()))
            for name, address in experiment.simulation.archives.items()
        }
        if resume:
            self._refuse_other_archives(out / _ELSEWHERE)
        self.experiment = experiment
        self.out = out
        self._cases = cases_by_site(experiment)
        self._addresses = dict(self._elsewhere)
        self._stack = ExitStack()

    def _refuse_other_archives(self, note: Path) -> None:
        """What was finished lies in the archives that the run began with, and nowhere else."""
        begun = json.loads(note.read_text(encoding="utf-8")) if note.exists() else self._elsewhere
        if begun != self._elsewhere:
            raise ConfigError(
                f"the run began with other archives ({note.name}: {begun}); resume it with the "
                "same [simulation.archives], or begin another with --out"
            )

    def archive(self, name: str) -> str:
        """The address of an archive that holds also when the simulation has ended."""
        return self._elsewhere.get(name) or f"folder:{self._folder(name)}"

    def _folder(self, name: str) -> Path:
        return self.out / "archives" / name

    def site(self, name: str) -> Path:
        return self.out / "sites" / name

    def cases_to_import(self) -> dict[str, list[Case]]:
        """The cases of the sites that were not wholly imported yet."""
        return {
            site: cases
            for site, cases in self._cases.items()
            if not (self.site(site) / NOT_IMPORTED).exists()
        }

    def import_images(self) -> Iterator[Stored | Quarantined]:
        """Store every site's labelled images in its archive.

        What cannot be stored is yielded as quarantined, and noted in the site's folder.
        """
        for site, cases in self.cases_to_import().items():
            self.site(site).mkdir(parents=True, exist_ok=True)
            left_out = []
            with open_gateway(self._addresses[site]) as gateway:
                for outcome in import_cases(cases, gateway):
                    if isinstance(outcome, Quarantined):
                        left_out.append({"case": outcome.case.name, "problem": outcome.problem})
                    yield outcome
            lines = "".join(json.dumps(line) + "\n" for line in left_out)
            (self.site(site) / NOT_IMPORTED).write_text(lines, encoding="utf-8")

    def write_documents(self) -> None:
        """Every hospital's document, with the address that its archive has now, and the keys."""
        _make_key(self.out / KEY)
        for site, cases in self._cases.items():
            _write_document(self.site(site), self.experiment, site, self._addresses[site], cases)

    def branch(self, new: str) -> str:
        """The branch that an interrupted run was writing, or else ``new``."""
        note = self.out / _BRANCH
        if not note.exists():
            write_whole(note, new)
        return note.read_text(encoding="utf-8")

    def run(self, branch: str) -> None:
        """Run the experiment: the ServerApp over an in-process grid of the ClientApp.

        Raises any :class:`~federation.errors.IODeepError`; whatever was finished until then
        stays whole in the archives.
        """
        self.write_documents()
        sites = self.experiment.roster
        documents = {site: {"site": str(self.site(site) / "site.toml")} for site in sites}
        context = Context(
            run_id=1,
            node_id=1,
            node_config={},
            state=RecordDict(),
            run_config={
                "experiment": self.experiment.model_dump_json(),
                "branch": branch,
                "run-folder": str(self.out),
                "archive": self._addresses[AGGREGATOR],
                "key": str(self.out / KEY),
            },
        )
        with self._grid(documents) as grid:  # its workers start while we import
            server_app: ServerApp = _load(_SERVER_APP)
            server_app(grid, context)

    @contextmanager
    def _grid(self, documents: Mapping[str, Mapping[str, str]]) -> Iterator[Grid]:
        budget = _budget(self.experiment)
        if budget.processes == 1:
            yield InProcessGrid(_load(_CLIENT_APP), documents)
            return
        for left in self.out.glob("replies-*"):  # by a run that was killed
            shutil.rmtree(left)
        with WorkerGrid(_CLIENT_APP, documents, budget, folder=self.out) as grid:
            yield grid

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(_alone(self.out))
            write_whole(self.out / _ELSEWHERE, json.dumps(self._elsewhere))
            for number, name in enumerate([AGGREGATOR, *self.experiment.roster]):
                if name in self._addresses:
                    continue
                archive = stack.enter_context(Archive(self._folder(name)))
                server = ArchiveServer(archive, ae_title=f"IODEEP_{number}")
                self._addresses[name] = stack.enter_context(server).address
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder while it is worked in; the system lets go when the process ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another run is working in {folder}; wait for its end") from None
        yield


def cases_by_site(experiment: Experiment) -> dict[str, list[Case]]:
    """The cases of each of the roster: its own, or those of all sites together."""
    cases = _cases_of_sites(experiment)
    if experiment.strategy.name == "centralised":
        return {POOLED: [case for found in cases.values() for case in found]}
    return cases


def _cases_of_sites(experiment: Experiment) -> dict[str, list[Case]]:
    """Every site's cases: made, or those that a folder's manifest gives to it."""
    sites = experiment.federation.sites
    if experiment.data is None:
        _check_filled(experiment)
        return {site: [] for site in sites}
    if experiment.data == PHANTOM:
        return {
            site: phantom_cases(site, PHANTOM_CASES, PHANTOM_TEST_CASES, experiment.seed)
            for site in sites
        }
    cases: dict[str, list[Case]] = {site: [] for site in sites}
    for case in read_manifest(Path(experiment.data)):
        if case.site in cases:
            cases[case.site].append(case)
    if empty := [site for site, found in cases.items() if not found]:
        raise DataError(
            f"the manifest in {experiment.data} has no cases of site {', '.join(empty)}; "
            "name its sites in [federation] sites"
        )
    return cases


def _check_filled(experiment: Experiment) -> None:
    """Whether every one of the roster has an archive that may hold images, and says which."""
    simulation = experiment.simulation
    for name in experiment.roster:
        if name not in simulation.archives or name not in simulation.tables:
            raise ConfigError(
                "a simulation needs labelled images: data=phantom, or data=FOLDER with a "
                "manifest.csv; or, for images that archives hold already, "
                f"simulation.archives.{name} and [simulation.tables.{name}]"
            )


def _table(experiment: Experiment, name: str, cases: list[Case]) -> dict[str, Any]:
    """A hospital's data table: the experiment's own for it, else one for the cases imported."""
    given = experiment.simulation.tables.get(name)
    if given is None:
        return {
            "query": {"Modality": experiment.line.modality},
            "labels": {"map": {text: n for n, text in experiment.model.labels.items()}},
            "split": {
                "test": sorted({case.patient_id for case in cases if case.split == "test"}),
                "key": "split.key",
            },
        }
    labels = given.labels.model_dump(mode="json", exclude_none=True)
    if given.labels.file is not None:
        labels["file"] = str(Path.cwd() / given.labels.file)
    return {
        "query": {"Modality": experiment.line.modality, **given.query},
        "labels": labels,
        "split": {"validation": given.validation, "test": given.test, "key": "split.key"},
    }


def _write_document(
    folder: Path, experiment: Experiment, name: str, address: str, cases: list[Case]
) -> None:
    """A hospital's document. The held-out patients are those of the data's own split."""
    # A real site draws its key at random. Here equal runs shall split equally, whether a patient
    # is at a site or in the pool of all.
    (folder / "split.key").write_text(f"simulation {experiment.seed}\n", encoding="utf-8")
    _make_key(folder / _SITE_KEY)
    document = {
        "name": name,
        "preview": True,
        "archives": {"images": address},
        "key": _SITE_KEY,
        "data": {experiment.line.region.slug: _table(experiment, name, cases)},
        "policy": {
            "trust": [{"lines": [str(experiment.line)], "signers": [f"../../{KEY}.pub"]}],
        },
    }
    (folder / "site.toml").write_text(tomli_w.dumps(document), encoding="utf-8")


def _make_key(path: Path) -> None:
    """A key at ``path``, unless there is one: an interrupted run goes on with its own."""
    if path.exists():
        SigningKey.read(path).write_public(path)
    else:
        SigningKey.create(path)


def _budget(experiment: Experiment) -> Budget:
    """What the experiment allows, or else what the machine has."""
    settings = experiment.simulation
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = settings.workers or max(1, (cores or 1) // experiment.training.threads)
    free_bytes = psutil.virtual_memory().available
    memory_bytes = settings.memory_gb * 1e9 if settings.memory_gb else free_bytes * 3 / 4
    return Budget(processes=min(processes, len(experiment.roster)), memory_bytes=int(memory_bytes))


def _load(reference: str) -> Any:
    """The object that ``module:name`` refers to, as Flower's component references do."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
