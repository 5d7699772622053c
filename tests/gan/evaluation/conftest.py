import pytest

from gan.data.datasets.digits import Digits


@pytest.fixture(scope="module")
def splits():
    return Digits(resolution=16).load()
