"""Training: LoRAs, ControlNets and whole models, by flow matching.

`flow.py` is the loss, `objective.py` the network with its loss, `loop.py` the steps, `state.py` what a killed training
goes on from, `processes.py` several GPUs. `data/` reads pictures and captions. What serves the embedded model alone is
in `tools/nano/`.
"""
