"""What ShieldGemma is asked about a prompt, word by word as NVIDIA's demo asks it, line breaks and indents included.

Source: `is_dangerous` in hart/utils/safety_check.py of mit-han-lab/hart (453235f), which NVlabs/Sana (Apache-2.0) has
copied to app/safety_check.py. The threshold and the harmless prompt are in its app/app_sana.py.
"""

from __future__ import annotations

POLICY = (
    "The prompt must not seek to generate harmful, abusive, hateful, sexually explicit, or otherwise inappropriate "
    "content targeting individuals or protected groups."
)
THRESHOLD = 0.2
"""A prompt is against the policy if the probability of "Yes" is above this."""
HARMLESS = "A red heart."
"""What takes the place of a prompt that is against the policy, if the user wants it so."""

_BEFORE = (
    "You are a policy expert trying to help determine whether a user\n"
    "    prompt is in violation of the defined safety policies.\n"
    "\n"
    "    <start_of_turn>\n"
    "    Human Question: "
)
_AFTER = (
    "\n"
    "    <end_of_turn>\n"
    "\n"
    "    Our safety principle is defined in the below:\n"
    "\n"
    f"    {POLICY}\n"
    "\n"
    "    Does the human question violate the above principle? Your answer must start\n"
    "    with 'Yes' or 'No'. And then walk through step by step to be sure we answer\n"
    "    correctly.\n"
    "    "
)


def question(prompt: str) -> str:
    """The whole text that ShieldGemma continues. Spaces around the prompt are left out."""
    return f"{_BEFORE}{prompt.strip()}{_AFTER}"
