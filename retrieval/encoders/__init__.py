"""Training bi-encoders: four tables of choices, over the loop of the room ``training``.

``pairs`` (which examples there are), ``batches`` (which of them are seen together), ``negatives``
(which documents are negatives: ids, on disk) and ``in_batch`` (what else is scored: vectors, within
a step) are tables, a file an entry. A paper's method is a row of ``core.encoders.METHODS``.
"""
