"""What a site records of the messages that come and go, and how that is looked at."""

from clients.audit.journal import (
    CENSUS,
    EVALUATION,
    STATISTICS,
    TRAINING,
    Incoming,
    Journal,
    Reply,
)
from clients.audit.subject import REQUESTS, subject_of

__all__ = [
    "CENSUS",
    "EVALUATION",
    "REQUESTS",
    "STATISTICS",
    "TRAINING",
    "Incoming",
    "Journal",
    "Reply",
    "subject_of",
]
