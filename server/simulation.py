"""Hospitals and aggregator on one machine, each with an archive of its own.

Only this composition knows both sides, and it loads them by reference, as Flower does:
archives are served over DICOM associations on loopback, sites have documents like any
hospital's, and the two Flower apps are those of a deployment.
"""

import importlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import tomli_w
from flwr.app import Context, RecordDict
from flwr.serverapp import Grid, ServerApp

from federation.config import Experiment
from federation.errors import ConfigError, DataError
from federation.grid import InProcessGrid
from federation.pacs import Archive, ArchiveServer, open_gateway
from federation.samples.case import Case
from federation.samples.decathlon import read_manifest
from federation.samples.importer import Quarantined, Stored, import_cases
from federation.samples.phantom import phantom_cases
from federation.workers import Budget, WorkerGrid

AGGREGATOR = "aggregator"
PHANTOM = "phantom"
PHANTOM_CASES = 12  # per site, with PHANTOM_TEST_CASES more held out
PHANTOM_TEST_CASES = 4

_SERVER_APP = "server.app:app"
_CLIENT_APP = "clients.app:app"


class Simulation:
    """Hospitals and an aggregator below one folder, their archives served while it is open.

    archives/NAME   the archive of a site, or of the aggregator
    sites/NAME      a hospital's own folder: its document, its key, its work folder
    """

    def __init__(self, experiment: Experiment, out: Path) -> None:
        """Raises :class:`ConfigError` where ``out`` holds something already."""
        if out.exists() and any(out.iterdir()):
            raise ConfigError(f"{out} is not empty; give another folder with --out")
        self.experiment = experiment
        self.out = out
        self.cases = _cases_by_site(experiment)
        self._addresses: dict[str, str] = {}
        self._stack = ExitStack()

    def archive(self, name: str) -> Path:
        return self.out / "archives" / name

    def site(self, name: str) -> Path:
        return self.out / "sites" / name

    def import_images(self) -> Iterator[Stored | Quarantined]:
        """Store every site's labelled images in its archive, and write its document.

        What cannot be stored is yielded as quarantined, and noted beside the document.
        """
        for site, cases in self.cases.items():
            self.site(site).mkdir(parents=True)
            _write_document(self.site(site), self.experiment, site, self._addresses[site], cases)
            with open_gateway(self._addresses[site]) as gateway:
                for outcome in import_cases(cases, gateway):
                    if isinstance(outcome, Quarantined):
                        line = {"case": outcome.case.name, "problem": outcome.problem}
                        with (self.site(site) / "not-imported.jsonl").open("a") as file:
                            file.write(json.dumps(line) + "\n")
                    yield outcome

    def run(self, branch: str) -> None:
        """Run the experiment: the ServerApp over an in-process grid of the ClientApp.

        Raises any :class:`~federation.errors.IODeepError`; whatever was finished until then
        stays whole in the archives.
        """
        server_app: ServerApp = _load(_SERVER_APP)
        sites = self.experiment.federation.sites
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
            },
        )
        with self._grid(documents) as grid:
            server_app(grid, context)

    @contextmanager
    def _grid(self, documents: Mapping[str, Mapping[str, str]]) -> Iterator[Grid]:
        budget = _budget(self.experiment)
        if budget.processes == 1:
            yield InProcessGrid(_load(_CLIENT_APP), documents)
            return
        with WorkerGrid(_CLIENT_APP, documents, budget) as grid:
            yield grid

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for number, name in enumerate([AGGREGATOR, *self.experiment.federation.sites]):
                archive = stack.enter_context(Archive(self.archive(name)))
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


def _cases_by_site(experiment: Experiment) -> dict[str, list[Case]]:
    """Every site's cases: made, or those that a folder's manifest gives to it."""
    sites = experiment.federation.sites
    if experiment.data is None:
        raise ConfigError(
            "a simulation needs labelled images: data=phantom, or data=FOLDER with a manifest.csv"
        )
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


def _write_document(
    folder: Path, experiment: Experiment, name: str, address: str, cases: list[Case]
) -> None:
    """A hospital's document. The held-out patients are those of the data's own split."""
    # A real site draws its key at random; here equal runs shall split equally.
    (folder / "split.key").write_text(f"{experiment.seed}/{name}\n", encoding="utf-8")
    document = {
        "name": name,
        "preview": True,
        "archives": {"images": address},
        "data": {
            experiment.line.region.slug: {
                "query": {"Modality": experiment.line.modality},
                "labels": {"map": {text: n for n, text in experiment.model.labels.items()}},
                "split": {
                    "test": sorted({case.patient_id for case in cases if case.split == "test"}),
                    "key": "split.key",
                },
            }
        },
    }
    (folder / "site.toml").write_text(tomli_w.dumps(document), encoding="utf-8")


def _budget(experiment: Experiment) -> Budget:
    """What the experiment allows, or else what the machine has."""
    settings = experiment.simulation
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = settings.workers or max(1, (cores or 1) // experiment.training.threads)
    free_bytes = psutil.virtual_memory().available
    memory_bytes = settings.memory_gb * 1e9 if settings.memory_gb else free_bytes * 3 / 4
    return Budget(
        processes=min(processes, len(experiment.federation.sites)), memory_bytes=int(memory_bytes)
    )


def _load(reference: str) -> Any:
    """The object that ``module:name`` refers to, as Flower's component references do."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)
