"""The machine that a site works on: its versions, its device, its disk, its clock, its keys."""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version

from clients.doctor.finding import Finding, Subject
from federation.config import Site
from federation.errors import ConfigError
from federation.iodeep.signature import SigningKey, show_fingerprint
from federation.trust import Rule

SOFTWARE = ("iodeep-federation", "flwr", "torch", "monai", "pydicom", "pynetdicom")
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
        site.work.mkdir(parents=True, exist_ok=True)
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
    seen = f"{now:%Y-%m-%d %H:%M} UTC"
    if now < MADE:
        return _MACHINE.failed(
            "clock",
            f"{seen}, which is before this software was made",
            "set the clock (NTP): certificates, records and logs go by it",
        )
    return _MACHINE.passed("clock", seen)


def _keys(site: Site) -> Iterator[Finding]:
    if site.key is not None:
        try:
            key = SigningKey.read(site.key)
            yield _KEYS.passed("own key", show_fingerprint(key.public.fingerprint))
        except ConfigError as error:
            yield _KEYS.failed("own key", error, "without it the site signs none of its records")
    for name, table in site.data.items():
        try:
            table.split.key.read_bytes()
            yield _KEYS.passed("split key", f"[data.{name}] {table.split.key}")
        except OSError as error:
            yield _KEYS.failed(
                "split key",
                f"[data.{name}] {table.split.key} cannot be read: {error.strerror}",
                "put a secret of your own there, such as `openssl rand -hex 32` gives; it decides "
                "for good which patients are held out",
            )
    if not site.policy.trust:
        yield _KEYS.failed(
            "trust",
            "[[policy.trust]] names nobody, so that no model is believed",
            "name lines, and the public key of the aggregator as a signer",
        )
    for trusted in site.policy.trust:
        lines = ", ".join(trusted.lines)
        try:
            Rule.of(trusted)
        except ConfigError as error:
            yield _KEYS.failed(
                "trust",
                f"{lines}: {error}",
                "ask the aggregator for its public key, and by telephone for its fingerprint",
            )
            continue
        if trusted.unsigned:
            yield _KEYS.warned(
                "trust",
                f"{lines}: models without a signature are accepted too",
                "leave out unsigned = true, unless you know where they come from",
            )
        else:
            yield _KEYS.passed("trust", f"{lines}: {len(trusted.signers)} signers")
