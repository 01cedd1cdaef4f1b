import pytest


@pytest.fixture(scope="session")
def little_body(tmp_path_factory):
    """A folder with a little BERT and its tokenizer, as transformers loads them."""
    import little

    return little.write(tmp_path_factory.mktemp("little") / "body")
