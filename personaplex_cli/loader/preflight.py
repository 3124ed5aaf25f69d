"""What loading the model would meet on this machine, found out without loading anything."""

import shutil
import warnings
from collections.abc import Iterator

import torch

from personaplex_cli.engine.quantised import why_no_kernels
from personaplex_cli.engine.steps import why_plain
from personaplex_cli.errors import DeviceError
from personaplex_cli.events import Event, Listener, Note
from personaplex_cli.files import GIGABYTE, free_bytes
from personaplex_cli.findings import OK, WARNING, WRONG, Finding, warn_if
from personaplex_cli.library.hub import cache_folder
from personaplex_cli.library.spec import KNOWN_REPOS, PERSONAPLEX, spec_of_repo
from personaplex_cli.library.weights import cached
from personaplex_cli.loader.device import choose_device, free_memory
from personaplex_cli.loader.memory_plan import choose_plan, needs
from personaplex_cli.loader.precision import precision_for, remedy_for
from personaplex_cli.options import DEFAULT_MODEL, DEMO, DEMO_NOTE, MAX_SLOTS, DeviceOptions, ModelOptions
from personaplex_cli.samples import FRAME_SECONDS


def check_gpus(options: DeviceOptions) -> Iterator[Finding]:
    """The GPUs that torch reaches through CUDA, ROCm or MPS, and its warnings, such as that the driver is too old."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = [torch.device("cuda", each) for each in range(count)]
        found = [(torch.cuda.get_device_properties(each), free_memory(each)) for each in gpus]
    said = [str(each.message).splitlines()[0] for each in caught]
    build = {"built_for": _built_for(), "said": said}
    built_for = f"this PyTorch is built for {build['built_for']}"
    for index, (about, free) in enumerate(found):
        total = about.total_memory
        capability = f"{about.major}.{about.minor}"
        memory = f"{free / GIGABYTE:.1f} of {total / GIGABYTE:.1f} GB free"
        text = f"{about.name}, compute capability {capability}, {memory}; {built_for}"
        figures = {"name": about.name, "capability": capability, "total": total, "free": free, **build}
        yield Finding(OK, f"GPU {index}", text, figures=figures)
    if not found and torch.backends.mps.is_available():
        yield Finding(OK, "GPU", "this Mac's, by MPS", figures=build)
    elif not found:
        has_driver = shutil.which("nvidia-smi") is not None
        text = "; ".join(["none that PyTorch can use", built_for, *said])
        advice = "The 7B model needs one."
        if has_driver:
            advice = "`nvidia-smi` is here: install a PyTorch for its driver, see https://pytorch.org/get-started."
        else:
            text += "; the demo model needs none" * (options.model == DEMO)
        bad = has_driver or options.model != DEMO
        yield warn_if(bad, "GPU", text, advice, build | {"nvidia_smi": has_driver})


def check_talking(options: DeviceOptions) -> Iterator[Finding]:
    """Whether the model could talk here, and how much of a conversation it would remember.

    Raises DeviceError or UsageError as loading it would.
    """
    if options.model == DEMO:
        yield Finding(OK, "talking", "the demo model is fast enough on any machine", DEMO_NOTE)
        return
    said: list[Event] = []
    device, _ = choose_device(options.device)
    if device.type == "cpu":
        about = {"device": device.type, "precision": precision_for(options.precision, device).name}
        advice = (
            "Use a GPU elsewhere (`personaplex chat --server HOST`, see README), or try the program with --model demo."
        )
        yield Finding(WRONG, "talking", "the 7B model needs a GPU to talk", advice, about, DeviceError.exit_code)
        return
    plan = choose_plan(
        ModelOptions(device=options.device, precision=options.precision), device, PERSONAPLEX, said.append
    )
    precision, seconds = plan.precision.name, plan.context * FRAME_SECONDS
    figures = {"device": device.type, "precision": precision, "remembers": seconds}
    if device.type == "mps":
        advice = "On a Mac, https://github.com/benob/personaplex-mlx is made for it."
        yield Finding(WARNING, "talking", "a Mac's GPU; the 7B model has not been measured on it", advice, figures)
        return
    notes = " ".join(event.text for event in said if isinstance(event, Note))
    room = needs(PERSONAPLEX, plan.precision).slots(free_memory(device), plan.context)
    figures["at_once"] = at_once = min(MAX_SLOTS, max(1, room))
    found = f"{precision}, and {seconds:.0f} s of the talk are remembered; --batch-size up to {at_once}"
    yield Finding(OK, "talking", found, notes, figures)
    why = why_no_kernels(device, plan.precision.dtype) or why_plain(device, plan.precision.dtype)
    found = f"cannot be used: {why}" if why else "can be used"
    advice = f"A frame then takes longer; int8 and int4 save memory, but take more time than bf16. {remedy_for(why)}"
    if why and precision == "int4":
        found += "; int4 is far too slow to talk without them"
        yield Finding(WRONG, "Triton kernels", found, remedy_for(why), {"why_not": why}, DeviceError.exit_code)
        return
    yield warn_if(bool(why) and plan.precision.is_quantised, "Triton kernels", found, advice, {"why_not": why})


def look_first(options: ModelOptions, chosen: tuple[torch.device, str], listen: Listener) -> None:
    """Before a model is downloaded: check that it could run here, and say what will happen.

    `chosen` is the device, and why. Only for models whose sizes are known by their name. Raises DeviceError and
    UsageError as loading would.
    """
    if options.model.lower() not in (DEFAULT_MODEL, *KNOWN_REPOS) or cached(options.model, options.revision):
        return
    device, reason = chosen
    listen(Note(reason))
    choose_plan(options, device, spec_of_repo(options.model), listen)
    place = cache_folder(options.model).parent
    room = f"{free_bytes(place) / GIGABYTE:.0f} GB are free"
    listen(Note(f"{options.model} is not here yet: about 17 GB will be downloaded to {place}, where {room}."))


def _built_for() -> str:
    """What this torch can compute on, such as "CUDA 12.8"."""
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
