"""The documents: an experiment, which travels, and a site's and the aggregator's, which stay home.

TOML becomes a frozen value once, at the edge; everything below receives values.
An unknown key is an error that names the nearest valid one.
"""

from federation.config.aggregator import Aggregator, read_aggregator
from federation.config.experiment import (
    POOLED,
    Augmentation,
    Experiment,
    Labels,
    Optimizer,
    StartTable,
    StrategyTable,
    TrainingTable,
    parse_experiment,
    read_experiment,
)
from federation.config.fields import (
    Name,
)
from federation.config.labels import (
    LabelSource,
)
from federation.config.site import (
    AggregatorTable,
    Archives,
    CacheTable,
    CensusTable,
    DataLimits,
    DataTable,
    FinetuneTable,
    OptOuts,
    PolicyTable,
    RoundsTable,
    ServiceRule,
    ServiceTable,
    Site,
    Split,
    StoreTable,
    TrustTable,
    read_site,
)

__all__ = [
    "POOLED",
    "Aggregator",
    "AggregatorTable",
    "Archives",
    "Augmentation",
    "CacheTable",
    "CensusTable",
    "DataLimits",
    "DataTable",
    "Experiment",
    "FinetuneTable",
    "LabelSource",
    "Labels",
    "Name",
    "OptOuts",
    "Optimizer",
    "PolicyTable",
    "RoundsTable",
    "ServiceRule",
    "ServiceTable",
    "Site",
    "Split",
    "StartTable",
    "StoreTable",
    "StrategyTable",
    "TrainingTable",
    "TrustTable",
    "parse_experiment",
    "read_aggregator",
    "read_experiment",
    "read_site",
]
