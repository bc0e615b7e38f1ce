"""A hospital on its own: a released network, trained on the hospital's own cases."""

from clients.finetuning.finetune import Comparison, Tuned, finetune

__all__ = ["Comparison", "Tuned", "finetune"]
