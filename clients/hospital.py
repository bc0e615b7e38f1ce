"""A hospital's two archives, opened: its models and its labelled images."""

from contextlib import ExitStack

from clients.data import LabelledData, load_examples
from federation.closing import Closing
from federation.config import Site
from federation.iodeep.manifest import VersionManifest
from federation.pacs import Gateway, open_gateway
from federation.registry import Registry


class Hospital(Closing):
    """A site while its archives are open. Close it, or use it as a context manager."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._stack = ExitStack()
        models = self._open(site.archives.of_models)
        same = site.archives.of_models == site.archives.images
        self._images = models if same else self._open(site.archives.images)
        self.registry = Registry(models, scratch=site.work / "scratch")

    def labelled_data(self, version: VersionManifest) -> LabelledData:
        """The site's labelled studies for a version's line, as its network takes them."""
        return load_examples(
            self._images,
            self.site,
            version.line,
            version.preprocessing,
            run=f"{version.line}/{version.branch}",
        )

    def release(self) -> None:
        """Let go of both archives until the next question, before work that takes long."""
        self.registry.release()
        self._images.release()

    def close(self) -> None:
        """Release the archives. Closing twice is harmless."""
        self._stack.close()

    def _open(self, address: str) -> Gateway:
        return self._stack.enter_context(open_gateway(address))
