"""Flower's Grid on one machine: the apps of a deployment, without its transport.

Sites work one after the other within this process, or at the same time in workers.
"""

from federation.grid.in_process import InProcessGrid
from federation.grid.workers import Budget, WorkerGrid

__all__ = ["Budget", "InProcessGrid", "WorkerGrid"]
