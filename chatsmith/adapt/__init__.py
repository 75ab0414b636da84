"""Documents of one's own: read, asked about, searched."""
