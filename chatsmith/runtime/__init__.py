"""Where and how things run: device, run directory, logs, metrics, measurements."""
