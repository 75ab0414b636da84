"""The GPT: configuration, network, loss and cost."""
