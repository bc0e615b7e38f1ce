"""What a site has to train on, before anything is trained."""

from clients.census.overview import Overview, Sampled, take_overview
from clients.census.picture import draw_samples
from clients.census.verdict import Verdict, judge

__all__ = ["Overview", "Sampled", "Verdict", "draw_samples", "judge", "take_overview"]
