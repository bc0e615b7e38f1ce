"""An image's class, out of what structured reports say of it or of a row in a list."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from clients.data.labels.segments import Segment, Wanted
from clients.data.quarantine import Reason, Unusable
from federation.config import LabelSource
from federation.iodeep.manifest import OutputLabel


@dataclass(frozen=True, kw_only=True, slots=True)
class WantedClass(Wanted):
    """Which values mean which class: found as segments are, by code first, and one of them enough.

    A report's values are the :class:`Segment` s of its header.
    """

    def is_met_by(self, segments: Iterable[Segment]) -> bool:
        """Whether these say a class."""
        return bool(self.labels_in(segments))

    def check(self, segments: Sequence[Segment]) -> None:
        """Raises :class:`Unusable` where these say no class, or several."""
        self.class_in(segments)

    def class_in(self, segments: Iterable[Segment]) -> int:
        """The one class that these say. Raises :class:`Unusable`."""
        return the_one(self.labels_in(segments))


def the_one(classes: Iterable[int]) -> int:
    """The only class among these. Raises :class:`Unusable` where there is none, or several."""
    found = sorted(set(classes))
    if not found:
        raise Unusable(Reason.NO_LABELS, "no class among those of labels.map and of the network")
    if len(found) > 1:
        raise Unusable(
            Reason.SEVERAL_LABELS, f"classes {', '.join(map(str, found))} of the same images"
        )
    return found[0]


def wanted_by(labels: LabelSource, outputs: Iterable[OutputLabel] = ()) -> Wanted:
    """What a table's labels are looked through for, and a network's ``outputs`` where given."""
    kind = WantedClass if labels.task == "classification" else Wanted
    return kind.of(outputs, labels.map)
