"""The commands and figures of docs/why_these_blocks.md: one module a section."""
