"""Optional packages: which flag needs which, and the line that installs it."""

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ser_hf.errors import UserError, first_line

_REPORTERS = {
    "azure_ml": ("azureml", "azureml-sdk"),
    "clearml": ("clearml", "clearml"),
    "codecarbon": ("codecarbon", "codecarbon"),
    "comet_ml": ("comet_ml", "comet-ml"),
    "dagshub": ("dagshub", "dagshub"),
    "dvclive": ("dvclive", "dvclive"),
    "flyte": ("flytekit", "flytekit"),
    "mlflow": ("mlflow", "mlflow"),
    "neptune": ("neptune", "neptune"),
    "swanlab": ("swanlab", "swanlab"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "trackio": ("trackio", "trackio"),
    "wandb": ("wandb", "wandb"),
}
"""For each value of `--report_to` the module that it needs, and what installs it."""

_OPTIMISERS = (
    ("8bit", "bitsandbytes", "bitsandbytes"),
    ("paged", "bitsandbytes", "bitsandbytes"),
    ("ademamix", "bitsandbytes", "bitsandbytes"),
    ("lion", "bitsandbytes", "bitsandbytes"),
    ("bnb", "bitsandbytes", "bitsandbytes"),
    ("galore", "galore_torch", "galore-torch"),
    ("apollo", "apollo_torch", "apollo-torch"),
    ("lomo", "lomo_optim", "lomo-optim"),
    ("grokadamw", "grokadamw", "grokadamw"),
    ("schedule_free", "schedulefree", "schedulefree"),
    ("stable_adamw", "optimi", "torch-optimi"),
    ("anyprecision", "torchdistx", "torchdistx"),
    ("torch_xla", "torch_xla", "torch-xla"),
    ("npu", "torch_npu", "torch-npu"),
    ("4bit", "torchao", "torchao"),
)
"""Parts of the values of `--optim`, the module that such a one needs, and what installs it."""

_COMPILERS = {
    "ipex": ("intel_extension_for_pytorch", "intel-extension-for-pytorch"),
    "onnxrt": ("onnxruntime", "onnxruntime"),
    "tensorrt": ("torch_tensorrt", "torch-tensorrt"),
    "torchxla_trace_once": ("torch_xla", "torch-xla"),
    "tvm": ("tvm", "apache-tvm"),
}
"""For values of `--torch_compile_backend` the module that they need, and what installs it."""


def require(flag: str, module: str, install: str | None = None) -> None:
    """Refuse a flag whose package is missing or broken, before any work.

    Args:
        flag: as it was given.
        module: that the package is imported by.
        install: what pip installs; `module` where None.

    Raises:
        UserError: one line that names the flag, the package and the line that installs it.
    """
    remedy = f"pip install {install or module}"
    if find_spec(module) is None:
        raise UserError(f"{flag} needs the package {module}: {remedy}")
    try:
        import_module(module)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:  # of another version, or for a GPU alone
        raise UserError(
            f"{flag} needs the package {module}, which cannot be imported ({first_line(error)[:120]}): {remedy}"
        ) from error


def require_for_trainer(settings: Mapping[str, Any]) -> None:
    """Refuse flags of `transformers.TrainingArguments` whose package is missing.

    Args:
        settings: values of its fields; what is left out has its default, which needs none.

    Raises:
        UserError: as `require`.
    """
    reporters = settings.get("report_to") or []
    for name in [reporters] if isinstance(reporters, str) else reporters:
        if name in _REPORTERS:
            require(f"--report_to {name}", *_REPORTERS[name])
    optimiser = str(getattr(settings.get("optim"), "value", settings.get("optim") or ""))
    if optimiser == "adamw_torch_8bit":  # of torchao, unlike all others of 8 bits
        require(f"--optim {optimiser}", "torchao")
    else:
        for part, module, install in _OPTIMISERS:
            if part in optimiser:
                require(f"--optim {optimiser}", module, install)
    for flag in ("deepspeed", "use_liger_kernel"):
        if settings.get(flag):
            module = flag.removeprefix("use_")
            require(f"--{flag}", module, module.replace("_", "-"))
    compiler = settings.get("torch_compile_backend")
    if compiler in _COMPILERS:
        require(f"--torch_compile_backend {compiler}", *_COMPILERS[compiler])
