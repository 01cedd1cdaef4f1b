"""Collection to runs of depth 1000: BM25, dense, given runs, and their hybrid."""
