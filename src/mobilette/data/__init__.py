"""Images in: finding, decoding, resizing, splitting."""
