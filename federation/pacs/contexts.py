"""Which presentation contexts our gateway proposes (PS3.8 Section 7.1.1.13).

It begins with what IODeep's own objects need, which is little and negotiated in no time, and
proposes more where more is asked for.

An archive accepts one transfer syntax for each context, and sends an instance only in a
context of its SOP class and (unless it converts) its transfer syntax. An association has 128
contexts, fewer than there are pairs of the two; so where images are fetched it proposes every SOP
class once, or some SOP classes with every transfer syntax apart.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Self

from pydicom.uid import UID, ExplicitVRLittleEndian, RawDataStorage
from pynetdicom import StoragePresentationContexts, build_context, build_role
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    ParametricMapStorage,
    SegmentationStorage,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from federation.pacs.association import MAX_CONTEXTS, TRANSFER_SYNTAXES

_QUESTIONS = (
    Verification,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    StorageCommitmentPushModel,
)
# What matters most here comes first, in case the rest does not fit.
_RECEIVED = tuple(
    dict.fromkeys(
        [
            str(RawDataStorage),
            str(SegmentationStorage),
            str(ParametricMapStorage),
            *(str(context.abstract_syntax) for context in StoragePresentationContexts),
        ]
    )
)

OWN = (str(RawDataStorage), str(ExplicitVRLittleEndian))
"""SOP class and transfer syntax of IODeep's own objects."""
MAX_SENT = MAX_CONTEXTS // 2
"""Kinds of instances that one proposal can send; the other contexts are for receiving."""
MAX_APART = (MAX_CONTEXTS - len(_QUESTIONS)) // len(TRANSFER_SYNTAXES)
"""SOP classes that one proposal can receive with every transfer syntax apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """What an association shall be able to carry, besides questions.

    sent:  pairs of SOP class and transfer syntax to send
    every: receive every SOP class, in the one transfer syntax that the archive chooses
    apart: SOP classes to receive in any transfer syntax, instead
    """

    sent: frozenset[tuple[str, str]] = frozenset({OWN})
    every: bool = False
    apart: frozenset[str] = frozenset()

    def covers(self, other: Self) -> bool:
        """Whether nothing new need be negotiated for ``other``."""
        return (
            other.sent <= self.sent
            and other.apart <= self.apart
            and (self.every or not other.every)
        )

    def receives(self, sop_classes: Set[str]) -> bool:
        """Whether these SOP classes can come, in one transfer syntax at least."""
        return self.every or sop_classes <= {OWN[0], *self.apart}

    def contexts(self) -> list[PresentationContext]:
        contexts = [build_context(question) for question in _QUESTIONS]
        contexts += [build_context(sop_class, syntax) for sop_class, syntax in sorted(self.sent)]
        if self.apart:
            contexts += [
                build_context(sop_class, syntax)
                for sop_class in sorted(self.apart)
                for syntax in TRANSFER_SYNTAXES
            ]
        elif self.every:
            contexts += [build_context(kind, list(TRANSFER_SYNTAXES)) for kind in _RECEIVED]
        else:
            contexts.append(build_context(*OWN))
        return contexts[:MAX_CONTEXTS]

    def roles(self) -> Sequence[SCP_SCU_RoleSelectionNegotiation]:
        """Who receives in a C-GET acts as SCP (PS3.7 Annex D.3.3.4)."""
        sent = {sop_class for sop_class, _ in self.sent}
        received = {str(context.abstract_syntax) for context in self.contexts()}
        received -= {str(question) for question in _QUESTIONS}
        return [
            build_role(UID(sop_class), scu_role=sop_class in sent, scp_role=True)
            for sop_class in sorted(received)
        ]
