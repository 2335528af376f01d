"""Operations that combine rooms and write directories: train, prune, quantize."""
