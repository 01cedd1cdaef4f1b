"""Where collections come from: one file a source, each into MIRACL's format on disk."""
