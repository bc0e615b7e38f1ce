"""What a process of ours keeps its libraries from doing."""

import logging
import os
import warnings

# Flower and Ray look up hosts of their own otherwise; a hospital's firewall should see none.
_NO_OUTSIDE_HOSTS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

# Their warnings repeat the value they complain about, which may be a patient's name.
_REPEAT_VALUES = ("pydicom", "pynetdicom", "highdicom")


def keep_libraries_quiet() -> None:
    """No call to hosts nobody named, and no DICOM value in a warning or a log."""
    os.environ.update(_NO_OUTSIDE_HOSTS)
    for library in _REPEAT_VALUES:
        warnings.filterwarnings("ignore", module=rf"{library}(\.|$)")
        logging.getLogger(library).setLevel(logging.CRITICAL + 1)
