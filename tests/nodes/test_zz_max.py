import torch, time
from sana_pack.nodes.bridge import loading, sampling
from e2e import in_process
from agreement import error
def test_max(file):
    G=torch.Generator().manual_seed(7)
    S=[torch.randn(1, n, 48, generator=G) for n in (9, 5)]
    noise=torch.randn(2,32,3,4,generator=G)
    out=[]
    for fast in ("off","max"):
        m=loading.load_model(file("diffusion_models","sana.safetensors"), fast=fast)
        sig=sampling.make_sigmas(m,"flow_dpm",5)
        t=time.time()
        out.append(in_process.sample(m, ([[S[0],{}]],[[S[1],{}]]), noise, sampling.make_sampler("flow_dpm"), sig))
        print(fast, time.time()-t)
    print(error(*out)); assert error(*out)<1e-4
