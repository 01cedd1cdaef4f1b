"""Groups and candidates to reranked runs: cross-encoders on DeepSpeed."""
