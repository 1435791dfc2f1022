"""How good many pictures are together: FID, KID and CLIP score, and the layouts that benchmarks read.

`pictures.py` reads what is measured. `inception.py` turns pictures into features, `distances.py` features into FID and
KID, `statistics.py` keeps what FID needs of them, `clip.py` compares pictures with their captions. `evaluate.py` does
all of it, `report.py` shows it. `benchmarks.py` knows the files of GenEval, DPG-Bench and MJHQ-30K.
"""
