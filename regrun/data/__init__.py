"""Data: `sources` reads a whole data set, `split` takes train, val and labels from it, `batches` feeds a stack."""
