"""Judgments of any split for the evaluation, test included.

Only what measures imports this module: no stage may learn or choose by test judgments
(``Task.judgments`` gives those of train and dev).
"""

from core.collection import read_qrels
from core.records import Qrels
from core.task import Task


def split_judgments(task: Task, language: str, split: str) -> Qrels:
    """Judgments of a split for its queries in use."""
    wanted = {query.qid for query in task.queries(language, split)}
    judgments = read_qrels(task.collection.qrels_file(language, split))
    return {qid: judged for qid, judged in judgments.items() if qid in wanted}
