"""Is SANA right on this machine, with these files? Networks against diffusers, fast paths against plain operations,
times, memory, a picture.
"""
