"""Networks with a replica axis: `ops` are the pieces, `build` puts them together, `parameters` holds the numbers."""
