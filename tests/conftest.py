"""What holds for all tests; the fixtures that they share are in `helpers.fixtures`."""

import os
import platform
import tempfile
import textwrap
from importlib import metadata
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", GRADIO_ANALYTICS_ENABLED="False", TOKENIZERS_PARALLELISM="false")
if "PYTEST_XDIST_WORKER" not in os.environ:  # a worker inherits the folder, so that all share its graphs
    CACHES = tempfile.TemporaryDirectory(prefix="ser_hf-tests-")
    os.environ["HF_HOME"] = CACHES.name
    os.mkfifo(Path(CACHES.name, "running"))
    RUNNING = os.open(Path(CACHES.name, "running"), os.O_RDWR)  # `helpers.programs` reads where it ends


def pytest_configure(config):
    """Import the fixtures, and with them the libraries, where tests run.

    A process that hands tests out to others runs none, and the others begin when it is ready.
    """
    if "PYTEST_XDIST_WORKER" in os.environ or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("helpers.fixtures")


LONGEST = ("tests/web/", "tests/app/test_page.py", "tests/evaluation/test_run.py")
LONGEST += tuple(f"tests/end_to_end/test_{name}.py" for name in ("docs_commands", "tour"))
LONGEST += tuple(f"tests/training/test_{name}.py" for name in ("finetune", "recovery"))
"""Files that take longest."""


def pytest_collection_modifyitems(items):
    """Begin with the longest files: at the end one process would wait for another."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


TESTED = ("torch", "torchaudio", "transformers", "accelerate", "datasets", "huggingface_hub", "gradio", "onnxruntime")
TESTED += ("numpy", "scipy", "scikit-learn", "pyarrow", "soundfile", "silero-vad")
"""Packages whose versions decide most of what is tested."""


def pytest_terminal_summary(terminalreporter):
    """Say which versions were tested, in the log of every run."""
    shown = [f"python {platform.python_version()}", *(f"{name} {metadata.version(name)}" for name in TESTED)]
    lines = textwrap.wrap(f"versions tested: {', '.join(shown)} ({platform.platform(terse=True)})", 120)
    terminalreporter.write_line("\n".join(lines))
