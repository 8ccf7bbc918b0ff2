import hypothesis
import pytest
import torch

# The models here are so small that a second thread gains nothing, and on a busy machine costs a lot.
torch.set_num_threads(1)

# Examples differ in cost by their kind, and machines by their load: pytest's own timeout is the deadline.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))
