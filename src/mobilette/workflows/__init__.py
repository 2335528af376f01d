"""Operations that join rooms and write directories: train, prune, quantize."""
