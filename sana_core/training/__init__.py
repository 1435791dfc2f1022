"""Training of the transformer and its add-ons. Nothing else in `sana_core` imports it.

In the order of the data: `batches.py` (a batch is a function of its step), `flow.py` (flow matching), `consistency.py`
and `sprint_student.py` (Sprint), `lora_layers.py` (LoRA), `networks.py` (how networks begin), `optimizer.py` (Muon,
learning rate), `average.py` (EMA), `resolution.py` (small pictures first), `state.py` (save, resume exactly), `loop.py`
(steps), `log.py` (what a person looks at). What serves the embedded model alone is in `tools/nano/`.
"""
