"""The machine that a site works on: its versions, its device, its disk, its clock, its keys."""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from clients.data.split import read_split_key
from clients.doctor.finding import Finding, Subject
from federation.config import Site, TrustTable
from federation.errors import ConfigError
from federation.iodeep.signature import SigningKey, show_fingerprint
from federation.software import DISTRIBUTION
from federation.trust import Rule
from federation.whole import make_private

SOFTWARE = (DISTRIBUTION, "flwr", "torch", "monai", "pydicom", "pynetdicom")
MADE = datetime(2026, 11, 1, tzinfo=UTC)
"""This software was not there before: a clock that shows an earlier day is wrong."""

_ENOUGH_BYTES = 10e9
_TOO_FEW_BYTES = 1e9
_MACHINE = Subject(about="machine")
_KEYS = Subject(about="keys")


def examine_machine(site: Site, *, now: datetime) -> Iterator[Finding]:
    """Everything that needs no archive."""
    yield _versions()
    yield _device()
    yield _disk(site)
    yield _clock(now)
    yield from _keys(site)


def _versions() -> Finding:
    installed = ", ".join(f"{name} {version(name)}" for name in SOFTWARE)
    return _MACHINE.passed("versions", f"Python {platform.python_version()}, {installed}")


def _device() -> Finding:
    import torch  # slow to import

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        gpu = f"{torch.cuda.get_device_name()}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free"
        return _MACHINE.passed("device", f"{gpu}; {cores} cores")
    if torch.version.cuda is not None:
        return _MACHINE.warned(
            "device",
            f"torch is built for CUDA {torch.version.cuda} and sees no GPU; {cores} cores",
            "check the driver with nvidia-smi; without a GPU training takes much longer",
        )
    return _MACHINE.passed("device", f"{cores} cores, no GPU")


def _disk(site: Site) -> Finding:
    """Volumes, and versions on their way, lie in the work folder."""
    try:
        make_private(site.work)
        with tempfile.NamedTemporaryFile(dir=site.work) as file:
            file.write(b"written")
            file.flush()
        free = shutil.disk_usage(site.work).free
    except OSError as error:
        return _MACHINE.failed(
            "disk",
            f"nothing can be written into {site.work}: {error.strerror}",
            "let the account that runs this write there, or name another folder as work",
        )
    seen = f"{free / 1e9:.1f} GB free at {site.work}"
    advice = f"free some, or name a larger disk's folder as work; {_ENOUGH_BYTES / 1e9:g} GB do"
    if free < _TOO_FEW_BYTES:
        return _MACHINE.failed("disk", seen, advice)
    if free < _ENOUGH_BYTES:
        return _MACHINE.warned("disk", seen, advice)
    return _MACHINE.passed("disk", seen)


def _clock(now: datetime) -> Finding:
    seen = f"{now.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    if now < MADE:
        return _MACHINE.failed(
            "clock",
            f"{seen}, which is before this software was made",
            "set the clock (NTP): certificates, records and logs go by it",
        )
    return _MACHINE.passed("clock", seen)


def _keys(site: Site) -> Iterator[Finding]:
    yield _own_key(site)
    for name, data in site.data.items():
        yield _split_key(f"[data.{name}]", data.split.key)
    if not site.policy.trust:
        yield _KEYS.failed(
            "trust",
            "[[policy.trust]] names nobody, so that no model is believed",
            "name lines, and the public key of the aggregator as a signer",
        )
    for table in site.policy.trust:
        yield _trust(table)


def _own_key(site: Site) -> Finding:
    if site.key is None:
        return _KEYS.warned(
            "own key",
            "none: what the site writes into its archive is not signed",
            "make one with `iodeep key create FILE`, and name it as key",
        )
    try:
        key = SigningKey.read(site.key)
    except ConfigError as error:
        return _KEYS.failed(
            "own key",
            f"{error}; without it the site takes no part, as it cannot sign",
            "correct the file named as key, or its mode; a new site makes one with "
            "`iodeep key create FILE`",
        )
    return _KEYS.passed("own key", show_fingerprint(key.public.fingerprint))


def _split_key(name: str, key: Path) -> Finding:
    try:
        read_split_key(key)
    except ConfigError as error:
        return _KEYS.failed(
            "split key",
            f"{name}: {error}",
            "it decides for good which patients are held out: restore it; a new site writes there "
            "what `openssl rand -hex 32` gives",
        )
    return _KEYS.passed("split key", f"{name}: {key}")


def _trust(table: TrustTable) -> Finding:
    lines = ", ".join(table.lines)
    try:
        rule = Rule.of(table)
    except ConfigError as error:
        return _KEYS.failed(
            "trust",
            f"{lines}: {error}",
            "ask the aggregator for its public key, and by telephone for its fingerprint",
        )
    if table.unsigned:
        return _KEYS.warned(
            "trust",
            f"{lines}: models without a signature are accepted too",
            "leave out unsigned = true, unless you know where they come from",
        )
    if not rule.signers:
        return _KEYS.failed(
            "trust",
            f"{lines}: no signers are named, so that no model is believed",
            "name the public key of the aggregator in signers",
        )
    signers = ", ".join(show_fingerprint(key.fingerprint) for key in rule.signers)
    return _KEYS.passed("trust", f"{lines}: signed by {signers}")
