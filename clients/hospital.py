"""A hospital's archives, opened: its models, its labelled images, and where predictions go."""

from contextlib import ExitStack

from clients.data import LabelledData, load_examples
from federation.closing import Closing
from federation.config import Site
from federation.errors import ModelError, RegistryError
from federation.iodeep.labels import Line
from federation.iodeep.manifest import EvaluationManifest, Measured, VersionManifest
from federation.iodeep.signature import SigningKey
from federation.naming import named_version, newest_branch
from federation.pacs import Gateway, open_gateway
from federation.registry import Registry
from federation.releases import read_releases, released
from federation.trust import Rule, TrustList


class Hospital(Closing):
    """A site while its archives are open. Close it, or use it as a context manager."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._stack = ExitStack()
        self._opened: dict[str, Gateway] = {}
        models = self._open(site.archives.of_models)
        self.images = self._open(site.archives.images)
        key = SigningKey.read(site.key) if site.key else None
        self.trust = _trust(site, key)
        self.registry = Registry(
            models, trust=self.trust, signer=key, scratch=site.work / "scratch"
        )

    @property
    def results(self) -> Gateway:
        """Where predictions go; opened when it is first asked for."""
        return self._open(self.site.archives.of_results)

    def newest(self, line: Line) -> VersionManifest:
        """The version of a line that is released at the site, else the latest of its newest branch.

        Raises :class:`RegistryError` where there is none.
        """
        if read_releases(self.registry, line).documents:
            return released(self.registry, line)
        branches = self.registry.branches(line)
        if not branches:
            raise RegistryError(
                f"no version of {line} is in {self.site.archives.of_models}; `iodeep model list` "
                "shows what is"
            )
        return self.registry.latest(line, branches[-1].name)

    def named(self, line: Line, version: str | None = None) -> VersionManifest:
        """The released version of a line, or the one that is named, as on the command line.

        Raises :class:`RegistryError` where it is not there.
        """
        if version is None:
            return released(self.registry, line)
        return named_version(self.registry, line, version, newest_branch(self.registry, line))

    def labelled_data(self, version: VersionManifest) -> LabelledData:
        """The site's labelled studies for a version's line, as its network takes them.

        Raises :class:`ModelError` for a version that does not say how.
        """
        if version.preprocessing is None:
            raise ModelError(
                f"version {version.uid} does not say how volumes become its network's input"
            )
        return load_examples(
            self.images,
            self.site,
            version.line,
            version.preprocessing,
            version.outputs,
            task=version.task,
            run=f"{version.line}/{version.branch}",
        )

    def record(self, version: VersionManifest, measured: Measured) -> None:
        """Keep what the site measured of a version as an EVALUATION beside it."""
        self.registry.publish(
            EvaluationManifest(
                line=version.line,
                branch=version.branch,
                round=version.round,
                of=version.reference,
                by=self.site.name,
                measured=measured,
            )
        )

    def release(self) -> None:
        """Let go of the archives until the next question, before work that takes long."""
        for gateway in self._opened.values():
            gateway.release()

    def close(self) -> None:
        """Release the archives. Closing twice is harmless."""
        self._stack.close()

    def _open(self, address: str) -> Gateway:
        if address not in self._opened:
            gateway = open_gateway(address, limits=self.site.archives.limits)
            self._opened[address] = self._stack.enter_context(gateway)
        return self._opened[address]


def _trust(site: Site, key: SigningKey | None) -> TrustList:
    """What the policy says; and the site believes itself."""
    rules = [Rule.of(table) for table in site.policy.trust]
    return TrustList(rules if key is None else [*rules, Rule.of_key(key.public)])
