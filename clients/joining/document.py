"""A site's first document, out of an invitation: whole, valid, and said what to change."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import TypeAdapter, ValidationError

from federation.config import Name
from federation.errors import ConfigError
from federation.invitation import Invitation, region_of

LEAST_CASES = 5
"""Where the aggregator proposes no other number: means over fewer cases are not told."""

PLACEHOLDER = "dimse://PACS@pacs.invalid:104"
"""No archive answers there (RFC 2606): `iodeep site doctor` says so."""


def site_document(invitation: Invitation, images: str | None, signers: Mapping[str, Path]) -> str:
    """The text of ``site.toml``.

    images:  the archive's address; :data:`PLACEHOLDER` unless given
    signers: by each signer's key (PEM), the file that holds it, beside the document
    """
    return "\n".join(
        (
            _HEAD.format(
                name=_toml(invitation.name),
                note="" if images else "CHANGE THIS. ",
                images=_toml(images or PLACEHOLDER),
                aggregator=invitation.aggregator,
                address=_toml(invitation.address),
            ),
            _data(invitation),
            _policy(invitation, signers),
        )
    )


_HEAD = """\
# A hospital's document. It stays here; paths are beside this file.
# `iodeep site doctor site.toml` says whether all of it will do.

name = {name}
key = "keys/site.key"                # signs the records that the site writes itself

[archives]
# {note}Where the images are: dimse://AE@host:port?calling=AE, or dicomweb+https://host/path.
images = {images}
# models = "dimse://MODELS@…"        # read and written; the archive of images unless given
# results = "dimse://…"              # of predictions; likewise

# Whose rounds the site takes part in: those of {aggregator}, which invited it.
[aggregator]
address = {address}
ca = "certs/ca.crt"
key = "keys/node.key"                # what the site is known by there
"""

_DATA_HEAD = """\
# What the site trains on: a table for every region. `iodeep site census site.toml` counts it.
"""

_DATA = """\
[data.{region}]
# C-FIND keys that a series must match; sets of such keys to leave out.
query = {query}
# exclude = [{{ SeriesDescription = "*scout*" }}]

[data.{region}.labels]
# In order of preference; what a segment is called here, unless it has the network's own name.
source = ["SEG", "RTSTRUCT"]
# map = {{ "anterior part" = 1 }}

[data.{region}.split]
# By patient. Keep the key: with another one test patients would be trained on.
validation = 0.15
test = 0.15
key = "keys/split.key"
"""

_POLICY_HEAD = """\
# What the site allows. {aggregator} proposed these values; they are the site's to change.
"""

_POLICY_MORE = """\
# More that a site may say:
# [policy] releases = true           # use what the aggregator releases
# [policy.rounds] minutes = 120, hours = ["20:00-06:00"], strategies = ["fedavg"], dry_run = true
# [policy.census] least = 10, per_day = 24   # smaller counts are not told
# [policy.opt_out] file = "opt-outs.txt", key = "keys/opt-outs.key"
# [policy.cache] bytes = "50 GB"     # unless another is given

# Whose versions are believed, for which lines.
"""


def _data(invitation: Invitation) -> str:
    modalities = _modalities(invitation)
    if not modalities:
        example = _DATA.format(region="hippocampus", query='{ Modality = "MR" }')
        return f"{_DATA_HEAD}[data]\n\n{_commented(example)}"
    tables = [
        _DATA.format(region=region, query=_query(found)) for region, found in modalities.items()
    ]
    others = [_commented(table) for table in tables[1:]]
    return "\n".join((f"{_DATA_HEAD}{tables[0]}", *others))


def _modalities(invitation: Invitation) -> dict[str, set[str]]:
    """By the regions that the lines name, the modalities that they do; "*" for any."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for line in invitation.lines:
        try:
            region = region_of(line.pattern)
            slug = region and TypeAdapter(Name).validate_python(region.slug)
        except (ConfigError, ValidationError):  # a region that is no table's name
            continue
        if slug:
            found[slug].add(line.pattern.partition("/")[0])
    return dict(found)


def _query(modalities: set[str]) -> str:
    one = next(iter(modalities))
    if len(modalities) == 1 and one.isalpha():
        return f"{{ Modality = {_toml(one)} }}"
    return "{}"


def _policy(invitation: Invitation, signers: Mapping[str, Path]) -> str:
    rounds = invitation.policy.get("rounds", {})
    assert isinstance(rounds, dict)  # as of any policy
    proposed = {**invitation.policy, "rounds": {"least_cases": LEAST_CASES, **rounds}}
    offered = tomli_w.dumps({"policy": proposed})
    trust = [
        f"[[policy.trust]]\nlines = [{_toml(line.pattern)}]\n"
        f"signers = [{', '.join(_toml(str(signers[pem])) for pem in line.signers)}]\n"
        for line in invitation.lines
    ]
    head = _POLICY_HEAD.format(aggregator=invitation.aggregator)
    return f"{head}{offered}\n{_POLICY_MORE}" + "\n".join(trust)


def _commented(text: str) -> str:
    return "".join(f"# {line}\n" if line else "#\n" for line in text.splitlines())


def _toml(value: Any) -> str:
    return tomli_w.dumps({"a": value}).removeprefix("a = ").rstrip("\n")
