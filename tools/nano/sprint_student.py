"""The Sprint architecture, begun so that it computes nearly what its teacher does.

SANA-Sprint (arXiv:2503.09641) differs from SANA in three places: RMS norms on queries and keys, a time embedding that
sees 0..1 instead of 0..1000, and the guidance scale as an input. It is trained for the first two before the
distillation. Here they are fitted instead, in seconds: the norms take the lengths that the teacher's queries and keys
have, the time embedding learns the teacher's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sana_core.config import TransformerConfig
from sana_core.kit import Kit
from sana_core.training.flow import TIMESTEPS
from sana_core.training.networks import initial_transformer
from sana_core.transformer.model import SanaTransformer

FIT_STEPS, FIT_TIMES, FIT_RATE = 600, 1024, 3e-3
EMBEDDER = "timestep_embedder"
TEACHERS_TIME, STUDENTS_TIME = f"time_embed.emb.{EMBEDDER}", f"time_embed.{EMBEDDER}"


def sprint_config(config: TransformerConfig) -> TransformerConfig:
    """The Sprint architecture of the same size: RMS norms on queries and keys, the guidance scale as an input, time in
    0..1.
    """
    return replace(config, qk_norm=True, guidance_embed=True)


def sprint_student(
    teacher: SanaTransformer, seed: int, run_teacher: Callable[[], object], kit: Kit | None = None
) -> SanaTransformer:
    """A Sprint transformer on the teacher's device that does what the teacher does; its guidance scale adds nothing at
    first.

    run_teacher: runs the teacher on noisy pictures of all times with their captions; its queries and keys are measured
    meanwhile.
    """
    student = initial_transformer(sprint_config(teacher.config), seed, kit)
    inherited = {key.replace(TEACHERS_TIME, STUDENTS_TIME): tensor for key, tensor in teacher.state_dict().items()}
    student.load_state_dict(student.state_dict() | inherited)
    student.to(teacher.proj_out.weight.device)
    learn_time(student.get_submodule(STUDENTS_TIME), teacher.get_submodule(TEACHERS_TIME))
    with torch.no_grad():
        for parameter in student.get_submodule("time_embed.guidance_embedder.linear_2").parameters():
            parameter.zero_()
        for name, length in projection_lengths(teacher, run_teacher).items():
            student.get_submodule(name.replace(".to_", ".norm_")).weight.fill_(length)  # type: ignore[operator]
    return student


def learn_time(student: nn.Module, teacher: nn.Module) -> None:
    """Train the student's embedder of t in 0..1 to give what the teacher's gives for 1000 t."""
    device = next(student.parameters()).device
    time = torch.linspace(0, 1, FIT_TIMES, device=device)
    with torch.no_grad():
        target = teacher(time * TIMESTEPS, torch.float32)
    optimizer = torch.optim.Adam(student.parameters(), lr=FIT_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, FIT_STEPS)
    for _ in range(FIT_STEPS):
        optimizer.zero_grad()
        F.mse_loss(student(time, torch.float32), target).backward()
        optimizer.step()
        schedule.step()
    optimizer.zero_grad()


@torch.no_grad()
def projection_lengths(model: SanaTransformer, run: Callable[[], object]) -> dict[str, float]:
    """{name of a query or key projection: mean root mean square of what it gives to a token} while `run` uses the
    model.
    """
    lengths: dict[str, list[Tensor]] = defaultdict(list)

    def measure(name: str) -> Callable[[nn.Module, tuple, Tensor], None]:
        return lambda module, given, found: lengths[name].append(found.float().square().mean(dim=-1).sqrt().flatten())

    hooks = [
        module.register_forward_hook(measure(name))
        for name, module in model.named_modules()
        if name.endswith((".to_q", ".to_k"))
    ]  # fmt: skip
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(found).mean().item() for name, found in lengths.items()}
