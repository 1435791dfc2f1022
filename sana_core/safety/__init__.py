"""Is a prompt against the policy? ShieldGemma's answer, and what becomes of a prompt that is.

`wording.py` has the question, `answer.py` the probability, `shield.py` the model, `check.py` what is done about it.
"""

from .check import ACTIONS, PromptCheck, Replaced, Verdict
from .shield import Shield, load_shield
from .wording import HARMLESS, THRESHOLD

__all__ = ["ACTIONS", "HARMLESS", "THRESHOLD", "PromptCheck", "Replaced", "Shield", "Verdict", "load_shield"]
