"""What a site records of the messages that come and go, and how that is looked at."""

from clients.audit.journal import Incoming, Journal, Reply
from clients.audit.subject import REQUESTS, subject_of

__all__ = ["REQUESTS", "Incoming", "Journal", "Reply", "subject_of"]
