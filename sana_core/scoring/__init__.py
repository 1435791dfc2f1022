"""Best of N: draw many candidates of a request, score them, keep the best (inference-time scaling, arXiv:2501.18427).

`scorer.py` says what a scorer is, `load.py` makes one of a text. `select.py` draws in rounds and keeps the best,
`candidates.py` draws them with a pipeline. `verdict.py` is the order of NVIDIA's tournament, `nvila.py` its verifier,
in a process of its own (`nvila_process.py`); `clip.py` and `imscore.py` are other scorers. `expected.py` and `plot.py`
tell what fewer candidates would have given.
"""

from .candidates import draw_candidates
from .load import load_scorer
from .scorer import Score, Scorer
from .select import Candidate, Selection, candidate_seeds, select
from .verdict import Verdict

__all__ = [
    "Candidate",
    "Score",
    "Scorer",
    "Selection",
    "Verdict",
    "candidate_seeds",
    "draw_candidates",
    "load_scorer",
    "select",
]
