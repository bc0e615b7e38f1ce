"""The errors that IODeep raises on purpose.

IODeepError
├── ConfigError            a document, a key or a command's argument is wrong
├── CodecError             bytes that are not the IODeep object they should be
│   ├── DigestError        well-formed, but not the bytes the manifest names
│   └── SignatureError     not signed by a key that is trusted for it
├── ModelError             an architecture or weights that cannot be used
├── PacsError              the archive or the way to it
│   ├── PacsUnreachable    no answer: address, port, network
│   │   └── PacsRefused    reached, and it does not let us in: AE title, certificate, login
│   └── StorageError       an instance was not kept, or not as it was sent
├── RegistryError          a line, branch or version that is absent or in conflict
├── DataError              labelled data as a whole (a single study is quarantined instead)
├── PolicyError            what a site was asked, and its policy does not allow
├── UpdateError            a site's answer that must not enter an aggregate
│   └── SoftwareError      a message of another release of this software
├── AuditError             an audit log that was changed, or cannot be written
├── FlowerError            the SuperLink or the SuperNode, or the way between them
└── RoundError             a round that cannot be finished

A message says what was being done, what was seen, what was expected and what to try.
It never holds a patient identifier: its text may reach a log or another hospital.
"""


class IODeepError(Exception):
    """Base of all errors that IODeep raises on purpose."""


class ConfigError(IODeepError):
    """A document, one of its keys, or a command's argument is wrong."""


class CodecError(IODeepError):
    """Bytes that are not the IODeep object they should be."""


class DigestError(CodecError):
    """A well-formed object whose content is not what its manifest names."""


class SignatureError(CodecError):
    """A record that no key signed which is trusted for it."""


class ModelError(IODeepError):
    """An architecture or weights that cannot be used."""


class PacsError(IODeepError):
    """The archive refused, failed, or answered something unusable."""


class PacsUnreachable(PacsError):
    """No answer from the archive: address, port or network."""


class PacsRefused(PacsUnreachable):
    """The archive was reached and does not let us in: AE title, certificate, login."""


class StorageError(PacsError):
    """An instance was not kept by the archive, or not as it was sent."""


class RegistryError(IODeepError):
    """A line, branch or version that is absent, incomplete or in conflict."""


class DataError(IODeepError):
    """The labelled data as a whole cannot be used."""


class PolicyError(IODeepError):
    """What a site was asked, and its policy does not allow.

    code: which of its rules, as :class:`federation.messages.Code` has them
    """

    def __init__(self, message: str, code: str = "policy") -> None:
        super().__init__(message)
        self.code = code


class UpdateError(IODeepError):
    """A site's answer that must not enter an aggregate."""


class SoftwareError(UpdateError):
    """A message of another release of this software, which may mean something else by it."""


class RoundError(IODeepError):
    """A round that cannot be finished: too few sites, or nothing to aggregate."""


class AuditError(IODeepError):
    """An audit log that was changed, or cannot be written."""


class FlowerError(IODeepError):
    """The SuperLink or the SuperNode failed, or the way between them."""
