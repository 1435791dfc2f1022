"""What processes of a test do with sharded parameters. They import it by name: `tests` may be another package there."""

import torch
import torch.distributed as dist
from torch import nn

from sana_core.training.optimizers import build_optimizer

SHAPES = ((5,), (7, 3), (6, 4, 5), (10, 1, 3, 3), (8, 6, 1, 1), (2, 33), (1, 9))
LARGE = (160, 224)  # a moment of this shape is kept in 8 bits


def parameters(shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


class Layer(nn.Module):
    def __init__(self, shapes):
        super().__init__()
        self.weights = nn.ParameterList(parameters(shapes))


SHARDED = (*SHAPES, LARGE, (161, 224))


def on_two_processes(rank, store):
    """Both CAMEs on parameters of two processes, beside the same on whole ones; and a state that changes processes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor, distribute_tensor
    from torch.utils._pytree import tree_map_only

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for name, near in (("came", 1e-5), ("came8bit", 1e-3)):
        layer = Layer(SHARDED)
        fully_shard(layer, mesh=mesh)
        sharded, whole = list(layer.parameters()), parameters(SHARDED)
        two, one = build_optimizer(name, sharded, rate=1e-2), build_optimizer(name, whole, rate=1e-2)
        for start in (0, 5):
            for step in range(start, start + 5):
                generator = torch.Generator().manual_seed(step)
                for p, q in zip(sharded, whole):
                    q.grad = torch.randn(q.shape, generator=generator)
                    p.grad = distribute_tensor(q.grad, mesh, p.placements)
                two.step()
                one.step()
            for p, q in zip(sharded, whole):
                torch.testing.assert_close(p.full_tensor(), q.detach(), rtol=1e-5, atol=near)
            saved = tree_map_only(DTensor, DTensor.full_tensor, two.state_dict())
            for values, others in zip(saved["state"].values(), one.state_dict()["state"].values()):
                assert {key: t.shape for key, t in values.items()} == {key: t.shape for key, t in others.items()}
            two, one = build_optimizer(name, sharded, rate=1e-2), build_optimizer(name, whole, rate=1e-2)
            two.load_state_dict(saved)
            one.load_state_dict(saved)
            assert all(torch.equal(*pair) for pair in zip(states(two), states(one)))
    dist.destroy_process_group()


def states(optimizer):
    for values in optimizer.state.values():
        for tensor in values.values():
            yield tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
