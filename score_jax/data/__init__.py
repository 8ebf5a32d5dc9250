"""Images: prepared files, sources, which images make up a batch, and their augmentation."""
