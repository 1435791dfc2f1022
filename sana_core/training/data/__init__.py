"""What a training learns from: pictures with captions, drawn step by step, and what is computed of them only once.

`read.py` reads a data set: folders (`folder.py`), tables (`metadata.py`), WebDataset's tars (`tars.py`), and captions
(`caption_files.py`). `example.py` and `picture.py` are what comes of it. `buckets.py` gives each picture its size,
`draws.py` says what a step trains on, `captions.py` which caption. `latents.py` and `texts.py` keep what autoencoder
and text encoder have made (`cache.py`, `fingerprint.py`); `views.py` is what the autoencoder sees.
"""
