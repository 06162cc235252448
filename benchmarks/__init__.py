"""What the performance page quotes, each a command: `python -m benchmarks [line|training|render]`."""
