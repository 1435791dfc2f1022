"""Stage 4: train the Linear DiT and the Gemma-2 text encoder together, on latents that the finished encoder computes once.

    python tools/nano/train_transformer.py WORK --minutes 50

Needs WORK/autoencoder.pt and WORK/tokenizer.model; resumes from WORK/transformer.pt. Interrupting loses at most a minute.
"""

from __future__ import annotations

import argparse
import logging
import random
import time
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from captions import COLOURS, WHITE, Caption, CaptionSource, Concept, load_concepts, load_splits
from optimizer import Muon, schedule, set_rate, split
from pictures import SMALL, compose, load_drawings, place
from sizes import AUTOENCODER, LATENT_SIZE, TEXT, TRANSFORMER
from torch import Tensor, nn
from workers import agree, average_gradients, launch, start_worker

from sana_core.dcae.autoencoder import DCAE
from sana_core.text.instruction import prompt_tokens
from sana_core.text.tokenizer import GemmaTokenizer, read_tokenizer
from sana_core.transformer.attention import Context
from sana_core.transformer.model import SanaTransformer

log = logging.getLogger("nano")
CAPTIONS = 64  # per worker and step
REPEATS = 2  # timesteps and noises drawn for each of them
EMPTY_SHARE = 0.1  # of the captions, for classifier-free guidance
INSTRUCTION_SHARE = 0.5  # of the others; the two wordings equally often
TRAINING_SHIFT = 2.0  # moves the logit-normal timesteps towards noise, where the caption decides what appears
EMA_DECAY = 0.998


@torch.no_grad()
def encode_variants(work: Path) -> Tensor:
    """Latents of all pictures a caption can ask for: (concepts, 10 variants, 2 mirrored, 32, 4, 4), about unit variance.

    Variants: one per background colour in the order of templates.json, then the small drawing on white.
    """
    model = DCAE(AUTOENCODER).to(memory_format=torch.channels_last)
    model.load_state_dict(torch.load(work / "autoencoder.pt")["model"])
    drawings = load_drawings(work / "images.npz", "concepts")
    palette = torch.tensor([colour["rgb"] for colour in COLOURS.values()]) / 255
    rows = []
    for drawing in drawings:
        scale = torch.tensor([1.0] * len(palette) + [SMALL]).repeat(2)
        mirror = torch.arange(2 * (len(palette) + 1)) > len(palette)
        placed = place(drawing.expand(len(scale), -1, -1, -1), scale, torch.zeros(len(scale), 2), mirror)
        white = palette[list(COLOURS).index(WHITE)]
        images = compose(placed, torch.cat([palette, white[None]]).repeat(2, 1))
        with torch.autocast("cpu", torch.bfloat16):
            latent = model.encode(images.to(memory_format=torch.channels_last)).float()
        rows.append(latent.unflatten(0, (2, -1)).transpose(0, 1).contiguous())
    return torch.stack(rows)


def variant(caption: Caption) -> int:
    return len(COLOURS) if caption.small else list(COLOURS).index(caption.colour)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """ids (B, T), kept (B, L), mask (B, L) as in GemmaTextEncoder.encode; latents (B, 2 mirrored, 32, 4, 4); -1 marks empty captions."""

    ids: Tensor
    kept: Tensor
    mask: Tensor
    latents: Tensor
    concepts: Tensor
    variants: Tensor


class Captioned:
    """Random batches of captions with the latents they ask for."""

    def __init__(self, concepts: list[Concept], latents: Tensor, tokenizer: GemmaTokenizer) -> None:
        self.concepts, self.latents, self.tokenizer = concepts, latents, tokenizer
        self.source = CaptionSource(concepts, load_splits())

    def batch(self, size: int, rng: random.Random) -> Batch:
        captions = [self.source.draw(rng.choice(self.concepts), rng) for _ in range(size)]
        empty = [rng.random() < EMPTY_SHARE for _ in captions]
        tokens = []
        for caption, is_empty in zip(captions, empty):
            wording = rng.choice(("default", "diffusers")) if rng.random() < INSTRUCTION_SHARE else None
            tokens.append(prompt_tokens(self.tokenizer, "" if is_empty else caption.text, None if is_empty else wording))
        lengths = torch.tensor([len(item.kept) for item in tokens])
        kept = pad([item.kept for item in tokens])
        marked = [(-1, -1) if is_empty else (c.concept, variant(c)) for c, is_empty in zip(captions, empty)]
        return Batch(
            ids=pad([item.ids for item in tokens]),
            kept=kept,
            mask=torch.arange(kept.shape[1]) < lengths[:, None],
            latents=torch.stack([self.latents[c.concept, variant(c)] for c in captions]),
            concepts=torch.tensor([concept for concept, _ in marked]),
            variants=torch.tensor([v for _, v in marked]),
        )


def pad(rows: list[list[int]]) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])


class TextToLatent(nn.Module):
    """The two networks to ship, and two linear heads that exist in training only.

    The heads read concept and variant off the last token's state (an InfoNCE over all pictures there are, with learned image embeddings):
    without them the text encoder learns far more slowly than the DiT.
    """

    def __init__(self, num_concepts: int) -> None:
        super().__init__()
        from transformers import Gemma2Config, Gemma2Model

        settings = {**asdict(TEXT), "attn_implementation": "eager", "use_cache": False, "pad_token_id": 0}
        self.text = Gemma2Model(Gemma2Config(**settings))
        self.transformer = SanaTransformer(TRANSFORMER, attention=plain_attention)
        initialize(self.transformer)
        self.concept_head = nn.Linear(TEXT.hidden_size, num_concepts)
        self.variant_head = nn.Linear(TEXT.hidden_size, len(COLOURS) + 1)

    def embed(self, batch: Batch) -> Tensor:
        """(B, L, hidden): the states of BOS and the caption's own tokens."""
        hidden = self.text(input_ids=batch.ids, use_cache=False).last_hidden_state
        return hidden.gather(1, batch.kept[:, :, None].expand(-1, -1, hidden.shape[2]))

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Flow matching: x_t = (1 - t) x0 + t noise, target noise - x0, mean squared error. And the heads' cross entropies."""
        count = len(batch.ids) * REPEATS
        mirrored = (torch.rand(count, generator=generator) < 0.5).long()
        x0 = batch.latents.repeat_interleave(REPEATS, dim=0)[torch.arange(count), mirrored]
        noise = torch.randn(x0.shape, generator=generator)
        t = torch.randn(count, generator=generator).sigmoid()
        t = TRAINING_SHIFT * t / (1 + (TRAINING_SHIFT - 1) * t)
        noisy = x0.lerp(noise, t[:, None, None, None])
        with torch.autocast("cpu", torch.bfloat16):
            states = self.embed(batch)
            context = states.float().repeat_interleave(REPEATS, dim=0)
            velocity = self.transformer(noisy, t * 1000, context, batch.mask.repeat_interleave(REPEATS, dim=0)).float()
        last = states.float()[torch.arange(len(states)), batch.mask.sum(dim=1) - 1]
        return {
            "flow": F.mse_loss(velocity, noise - x0),
            "concept": F.cross_entropy(self.concept_head(last), batch.concepts, ignore_index=-1),
            "variant": F.cross_entropy(self.variant_head(last), batch.variants, ignore_index=-1),
        }


def plain_attention(query: Tensor, key: Tensor, value: Tensor, heads: int, context: Context) -> Tensor:
    """Softmax attention as three products: for 16 query tokens several times faster on a CPU than the flash kernels."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    logits = (query @ key.transpose(-2, -1)).float() * query.shape[-1] ** -0.5
    weights = (logits if context.mask is None else logits + context.mask).softmax(dim=-1)
    return (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2)


def initialize(model: SanaTransformer) -> None:
    """Xavier for matrices, zero for the output layer, as DiTs are started."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and "scale_shift_table" not in name and "conv_depth" not in name:
            nn.init.xavier_uniform_(parameter.view(parameter.shape[0], -1))
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    nn.init.normal_(model.time_embed.linear.weight, std=0.02)
    nn.init.zeros_(model.proj_out.weight)
    for block in model.transformer_blocks:
        nn.init.normal_(block.scale_shift_table, std=TRANSFORMER.hidden_size**-0.5)


def build_optimizers(model: TextToLatent, rate: float) -> list[torch.optim.Optimizer]:
    """`rate` is the peak learning rate of Muon."""
    matrices, rest = split(model.named_parameters(), plain=("embed_tokens", "conv_depth", "_head", "proj_out", "patch_embed"))
    return [Muon(matrices, lr=rate, weight_decay=0.01), torch.optim.AdamW(rest, lr=rate / 4, betas=(0.9, 0.98), weight_decay=0.0)]


class Run:
    """One worker of the training; saved and resumed exactly, since all randomness comes from the step."""

    def __init__(self, args: argparse.Namespace, rank: int) -> None:
        self.rank, self.checkpoint = rank, args.work / "transformer.pt"
        concepts = load_concepts(args.work)
        latents = torch.load(args.work / "latents.pt")
        self.data = Captioned(concepts, latents, read_tokenizer(args.work / "tokenizer.model"))
        torch.manual_seed(0)
        self.model = TextToLatent(len(concepts))
        self.optimizers = build_optimizers(self.model, args.rate)
        self.average = deepcopy(self.model).requires_grad_(False)
        self.step, self.elapsed = 0, 0.0
        if self.checkpoint.exists():
            self.resume()

    def resume(self) -> None:
        state = torch.load(self.checkpoint)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        self.step, self.elapsed = state["step"], state["elapsed"]

    def save(self) -> None:
        state = {"model": self.model.state_dict(), "average": self.average.state_dict(), "step": self.step, "elapsed": self.elapsed}
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state | {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}, temporary)
        temporary.rename(self.checkpoint)

    def train_step(self, progress: float) -> dict[str, float]:
        seed = 1_000_003 * self.step + self.rank
        batch = self.data.batch(CAPTIONS, random.Random(seed))
        losses = self.model.losses(batch, torch.Generator().manual_seed(seed))
        set_rate(self.optimizers, schedule(progress))
        (losses["flow"] + 0.1 * losses["concept"] + 0.05 * losses["variant"]).backward()
        average_gradients(self.model.parameters())
        torch.nn.utils.clip_grad_norm_([p for group in self.optimizers[1].param_groups for p in group["params"]], 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        decay = min(EMA_DECAY, self.step / (self.step + 50))
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.model.parameters()):
                slow.lerp_(fast, 1 - decay)
        return {name: loss.item() for name, loss in losses.items()}


def train(rank: int, args: argparse.Namespace) -> None:
    start_worker(rank, args.workers, args.work / "rendezvous-transformer")
    run = Run(args, rank)
    budget, totals, count, last_save = args.minutes * 60, {}, 0, time.monotonic()
    while run.elapsed < budget:
        started = time.monotonic()
        for name, loss in run.train_step(run.elapsed / budget).items():
            totals[name] = totals.get(name, 0.0) + loss
        count += 1
        run.elapsed = agree(run.elapsed + time.monotonic() - started)
        if rank == 0 and count == 20:
            means = "  ".join(f"{name} {total / count:.3f}" for name, total in totals.items())
            log.info("step %d  %.1f min  %s", run.step, run.elapsed / 60, means)
            totals, count = {}, 0
        if rank == 0 and time.monotonic() - last_save > 60:
            run.save()
            last_save = time.monotonic()
    if rank == 0:
        run.save()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--rate", type=float, default=8e-3, help="peak learning rate of Muon")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if not (args.work / "latents.pt").exists():
        latents = encode_variants(args.work)
        assert latents.shape[-1] == LATENT_SIZE
        log.info("%s latents, standard deviation %.3f", tuple(latents.shape), latents.std())
        torch.save(latents, args.work / "latents.pt")
    launch(train, args)


if __name__ == "__main__":
    main()
