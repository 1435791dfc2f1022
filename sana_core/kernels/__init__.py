"""Operations with more than one implementation. The plain PyTorch version of each is the reference for the others."""
