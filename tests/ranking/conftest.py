import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tiny.py


@pytest.fixture(scope="session")
def trained(models, embedded_folder, small_collection, tmp_path_factory):
    """A small collection taken through retrieval, data_aug and ranking: (task, output).

    With a chain, a cascade, a taught ranker, and OpenVINO.
    """
    import contextlib
    import io

    from core.config import load_config, with_data
    from core.task import Task
    from data_aug import build
    from ranking import rank
    from retrieval import search

    folder = tmp_path_factory.mktemp("trained")
    small_collection(folder / "small")
    work = models.parent
    (folder / "other.yaml").write_text(
        f"collection: {{path: {folder}/small}}\nlanguages: [sw]\n"
        "retrieval: {sources: [dense], dense: {layers: 1, max_length: 32}, "
        "hybrid: {weights: equal}}\n"
        f"data_aug: {{default: {{}}, plain: {{negatives: 1}}}}\nwork: {work}\n"
    )
    (folder / "rankers.yaml").write_text(f"""
collection: {{path: {folder}/small}}
retrieval: {{sources: [dense], dense: {{layers: 1, max_length: 32}}, hybrid: {{weights: equal}}}}
data_aug: {{default: {{negatives: 2}}}}
work: {work}
ranking:
  chain:
    pre: &tiny
      layers: 1
      prune_vocabulary: true
      steps: 2
      batch_size: 2
      max_length: 32
      query_length: 8
      learning_rate: 1e-3
      evaluate_every: 1
      dev_depth: 3
      data: {folder}/other.yaml
      recipe: plain
  rankers:
    large: &own
      <<: *tiny
      data: null
      recipe: default
      start: pre
      after: small
      depth: 2
      loss: listwise_softmax
      group_size: 2
    small: {{<<: *own, start: null, after: null, depth: null, loss: binary_cross_entropy}}
    taught: {{<<: *own, start: null, after: null, depth: null, loss: kl_divergence, teacher: small}}
  rerank: {{depth: 4, backend: openvino}}
""")
    said = io.StringIO()
    config = load_config(folder / "rankers.yaml")
    with contextlib.redirect_stdout(said):
        for part in with_data(config):
            search.run(part)
            build.run(part)
        rank.run(config)
    return Task(config), said.getvalue()
