"""Training: datasets, Buttonlab, evaluation. The one place besides `export` that imports torch."""
