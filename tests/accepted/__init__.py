"""One file a section of docs/accepted.md, each running every row of its table."""
