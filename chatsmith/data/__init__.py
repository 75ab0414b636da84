"""Files to batches: sources, documents, token cache, packing, conversations."""
