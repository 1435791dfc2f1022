"""The errors a user of the pack can cause. Each message says what was found, what was expected and what to do."""


class SanaError(ValueError):
    """Base class of all errors raised on purpose by sana_core."""


class CheckpointError(SanaError):
    """A model file cannot be used: unreadable, of another model, or with missing, unexpected or mis-shaped tensors."""


class InputError(SanaError):
    """An argument or an input (size, prompt file, picture, device) cannot be used."""
