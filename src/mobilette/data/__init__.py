"""Pictures in: finding, decoding, resizing, splitting."""
