"""The Linear DiT of SANA: tokens stay channels-last, (B, N, C), from patch embed to the output projection."""
