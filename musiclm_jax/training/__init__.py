"""The one trainer, its data, optimizers, checkpoints and hooks."""
