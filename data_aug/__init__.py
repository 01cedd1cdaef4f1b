"""Runs and judgments to training groups; AUGMENTATIONS in ``data_aug.build`` lists the methods."""
