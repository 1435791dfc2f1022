"""Speed against diffusers: `python -m bench.speed cpu` or `cuda`.

Random weights, the same in both. Variants take turns within rounds and are compared within them, see `paired.py`; the
reference against itself shows the noise. "faster" stands where the 10th percentile of the ratio lies above the 90th of
that control. On the CPU the time of the process counts, in one thread, and networks have few blocks. --smoke runs tiny
sizes of all sections, only to see that they run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench import chart, ksampler, machine, roofline
from bench.cases import Case, Maker, sections
from bench.paired import CONTROL, Ratio, paired, verdict
from bench.plans import CPU, CUDA, SMOKE, Plan

COMFYUI = "comfyui"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant of a case. tflops: useful operations in 10^12 per second.  roof: share of the roofline.  kernels:
    that the GPU runs.
    """

    section: str
    case: str
    ratio: Ratio
    verdict: str
    per_block_ms: float | None = None
    tflops: float | None = None
    roof: float | None = None
    peak_bytes: int | None = None
    kernels: int | None = None
    too_far: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    args = arguments(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.stderr.write("PyTorch finds no CUDA GPU here\n")
        return 2
    torch.set_num_threads(1 if args.device == "cpu" else torch.get_num_threads())
    plan = planned(args)
    with torch.inference_mode():
        found = run(plan, args.section, args.budget, partial(write, args.json) if args.json else None)
    if args.plot:
        chart.draw(found["rows"], found["about"], args.plot)
    return 0 if found["rows"] and not found["failures"] and not any(row["too_far"] for row in found["rows"]) else 1


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("device", choices=("cpu", "cuda"))
    parser.add_argument("--section", nargs="+", help=f"some of those that a run lists, or {COMFYUI}")
    parser.add_argument(
        "--budget", type=float, default=540.0, help="seconds, shared by the cases (default: %(default)s)"
    )
    parser.add_argument("--pixels", type=int, nargs="+", help="sides of the pictures, in steps and decoding")
    parser.add_argument("--tokens", type=int, nargs="+", help="lengths of the prompt, of at most 300")
    parser.add_argument("--blocks", type=int, help="of the transformers, in place of the plan's")
    parser.add_argument("--rounds", type=int, help="at most")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU, only to see that all runs")
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--plot", type=Path, help="draw the ratios as this PNG")
    return parser.parse_args(argv)


def planned(args: argparse.Namespace) -> Plan:
    plan = SMOKE if args.smoke else CPU if args.device == "cpu" else CUDA
    asked = {
        "pixels": args.pixels and tuple(args.pixels),
        "autoencoders": args.pixels and {name: (ae[0], args.pixels) for name, ae in plan.autoencoders.items()},
        "tokens": args.tokens and tuple(args.tokens),
        "blocks": args.blocks,
        "clock": args.rounds and replace(plan.clock, rounds=args.rounds),
    }
    return replace(plan, **{name: value for name, value in asked.items() if value})


def run(
    plan: Plan, names: Sequence[str] | None, budget: float, save: Callable[[dict[str, Any]], object] | None = None
) -> dict[str, Any]:
    """Prints and returns everything. save: is called after each case, as a machine may be taken away."""
    end = time.monotonic() + budget
    made = {**sections(plan), COMFYUI: ksampler.cases(plan) if names and COMFYUI in names else []}
    unknown = set(names or ()) - set(made)
    if unknown:
        raise SystemExit(f"there is no section {', '.join(sorted(unknown))}; choose of {', '.join(made)}")
    makers = [maker for name in names or made for maker in made[name]]
    found: dict[str, Any] = {"about": machine.about(plan.device), "smoke": plan.smoke, "rows": [], "failures": []}
    if plan.smoke:
        say("SMOKE TEST with tiny networks: the program runs, its numbers mean nothing.")
    say(found["about"])
    ceilings = None
    if plan.ceilings:
        ceilings = roofline.measure(plan.clock, plan.dtypes[-1], *plan.ceilings)
        found |= {"ceilings": asdict(ceilings), "products": product_rates(plan), "state": [machine.state()]}
        copied, products = f"copy {ceilings.bandwidth / 1e12:.3g} TB/s", f"{ceilings.operations / 1e12:.3g} TFLOP/s"
        say(f"{copied}, product of matrices of {plan.ceilings[1]} x {plan.ceilings[1]} {products}")
    for done, maker in enumerate(makers):
        left = end - time.monotonic()
        if left <= 0 and not plan.smoke:
            say(f"Out of time: {len(makers) - done} of {len(makers)} cases were left out.")
            break
        found["rows"] += [
            asdict(row) for row in measured(maker, plan, ceilings, left / (len(makers) - done), found["failures"])
        ]
        if save:
            save(found)
    if plan.device.type == "cuda":
        found["state"].append(machine.state())
        if save:
            save(found)
        say(f"clocks, temperature, power, load before and after: {' | '.join(found['state'])}")
    return found


def write(path: Path, found: dict[str, Any]) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n")


def product_rates(plan: Plan) -> dict[str, dict[str, float]]:
    """TFLOP/s of the matrix products of a block in their exact sizes."""
    rates = {}
    for name, config in plan.networks.items():
        for pixels in plan.pixels:
            found = rates[f"{name}, {pixels} px"] = roofline.product_rates(plan.clock, plan.dtypes[-1], config, pixels)
            said = ", ".join(f"{product} {rate:.3g}" for product, rate in found.items())
            say(f"matrix products of {name}, {pixels} px, TFLOP/s: {said}")
    return rates


def measured(
    maker: Maker, plan: Plan, ceilings: roofline.Ceilings | None, seconds: float, failures: list[str]
) -> list[Row]:
    """All variants of a case. What could not be run is said and added to `failures`; the other cases go on."""
    deadline = time.monotonic() + seconds

    def failed(what: str, error: Exception) -> None:
        failures.append(f"{what}: {type(error).__name__}: {error!s:.300}")
        say(f"  FAILED {failures[-1]}")

    if plan.device.type == "cuda":
        torch.cuda.empty_cache()
    name = f"case {maker}"
    try:
        case = maker()
        name = f"{case.section}, {case.name}"
        say(f"\n{case.section}: {case.name}")
        ratios = paired(case.variants, plan.clock, deadline, lambda variant, error: failed(f"{name}, {variant}", error))
        rows = [row(case, ratio, ratios, ceilings, plan) for ratio in ratios]
    except Exception as error:
        failed(name, error)
        return []
    for found in rows:
        say(line(found))
    return rows


def row(case: Case, ratio: Ratio, ratios: list[Ratio], ceilings: roofline.Ceilings | None, plan: Plan) -> Row:
    control = next(other for other in ratios if other.variant == CONTROL)
    known = ratio.variant in case.variants
    reference = ratio.variant == ratios[0].variant
    operations = sum(kernel.operations for kernel in case.kernels)
    run, on_gpu = case.variants.get(ratio.variant), plan.device.type == "cuda"
    return Row(
        section=case.section,
        case=case.name,
        ratio=ratio,
        verdict=verdict(ratio, control) if known and not reference and not plan.smoke else "",
        per_block_ms=ratio.milliseconds / case.blocks if case.blocks else None,
        tflops=operations / ratio.milliseconds / 1e9 if operations else None,
        roof=ceilings.milliseconds(case.kernels) / ratio.milliseconds if ceilings and case.kernels else None,
        peak_bytes=machine.peak_bytes(run) if on_gpu and run else None,
        kernels=machine.kernels_run(run) if on_gpu and run else None,
        too_far=case.largest_error is not None and not ratio.error <= case.largest_error,
    )


def line(row: Row) -> str:
    ratio = row.ratio
    parts = [
        f"  {ratio.variant:44} {ratio.milliseconds:10.2f} ms",
        f"x{ratio.median:.3f} [{ratio.p10:.3f}, {ratio.p90:.3f}], {ratio.wins} of {ratio.rounds} rounds faster",
        f"error {ratio.error:.0e}{' TOO FAR' * row.too_far}",
        f"warm-up {ratio.warm_up_seconds:.1f} s",
        row.per_block_ms is not None and f"{row.per_block_ms:.2f} ms a block",
        row.tflops is not None and f"{row.tflops:.3g} TFLOP/s",
        row.roof is not None and f"{row.roof:.0%} of the roofline",
        row.peak_bytes is not None and f"peak {row.peak_bytes / 1e6:.0f} MB",
        row.kernels is not None and f"{row.kernels} kernels",
        row.verdict,
    ]
    return "  ".join(part for part in parts if part)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
