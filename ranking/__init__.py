"""Groups and candidates to reranked runs.

From Python: ``Reranker(folder).rank(query, passages)``.
"""

from ranking.reranker import Reranker

__all__ = ["Reranker"]
