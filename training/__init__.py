"""Training: a learner and its data in, a checkpoint folder out."""
