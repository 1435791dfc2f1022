"""Training of SANA's three networks and their add-ons, used by `tools/nano/`; nothing else in `sana_core` imports it.

In the order of the data: `batches.py` (a batch is a function of its step), `text.py` (captions, text encoder and its
own losses), `flow.py` (flow matching), `autoencoder.py` (DC-AE), `consistency.py` (Sprint), `lora_layers.py` (LoRA),
`networks.py` (how networks begin), `optimizer.py` (Muon, learning rate), `average.py` (EMA), `resolution.py` (small
pictures first), `state.py` (save, resume exactly), `loop.py` (steps), `log.py` and `sheets.py` (what a person looks
at).
"""
