"""The loop of the reference, offline.py in NVIDIA's repository: encode, LMGen.step, decode, one frame at a time.

    python reference_loop.py '{"folder": MOSHI or null, "lm": SIZES, "mimi": SIZES, "device": "cuda"}'

Reads a number of frames from a line of standard input, again and again, and answers with a JSON list of milliseconds.
Without a folder it is PyPI's moshi. Knows nothing of this project: both packages are called moshi.
"""

import json
import sys
import time
from typing import Any

import torch

asked: dict[str, Any] = json.loads(sys.argv[1])
if asked["folder"]:
    sys.path.insert(0, asked["folder"])

from moshi.models import LMGen, loaders  # noqa: E402
from moshi.models.lm import LMModel  # noqa: E402

WARM_UP = 10  # frames
FRAME = 1920
ONES = ("alpha", "_initialized", "cluster_usage", "norm1.weight", "norm2.weight")


def filled(module: Any) -> Any:
    for name, tensor in module.state_dict().items():
        if name.endswith(ONES):
            tensor.fill_(1)
        elif tensor.is_floating_point():
            tensor.normal_(0.0, 0.02)
    return module.eval()


def codec(device: str) -> Any:
    if not asked["folder"]:
        return filled(loaders.get_mimi(None, asked["mimi"], device=device, num_codebooks=8))
    for name, sizes in (("_seanet", "seanet"), ("_quantizer", "quantizer"), ("_transformer", "transformer")):
        getattr(loaders, f"{name}_kwargs").update(asked["mimi"][sizes])
    loaders.load_model = lambda module, path: None
    return filled(loaders.get_mimi("random.safetensors", device))


def language_model(device: str) -> Any:
    model = LMModel(device=device, dtype=torch.bfloat16, **asked["lm"])
    return filled(model.to(torch.bfloat16))  # NVIDIA's makes its text head in float32


@torch.no_grad()
def main() -> None:
    device = asked["device"]
    if device == "cpu":
        torch.set_num_threads(1)  # for a tiny model threads cost more than they gain
    # The reference runs a second codec beside the first.
    codecs = [codec(device), codec(device)] if asked["folder"] else [codec(device)]
    more = {"device": device, "frame_rate": 12.5, "sample_rate": 24_000} if asked["folder"] else {}
    generator = LMGen(language_model(device), **more)
    for each in (*codecs, generator):
        each.streaming_forever(1)

    def step() -> float:
        began = time.perf_counter()
        sound = torch.randn(1, 1, FRAME).mul_(0.1).to(device)
        codes, *_ = [each.encode(sound) for each in codecs]
        tokens = generator.step(codes[:, :, :1])
        if tokens is not None:
            answer, *_ = [each.decode(tokens[:, 1:9]) for each in codecs]
            answer.cpu()
        return 1000 * (time.perf_counter() - began)

    for _ in range(WARM_UP):
        step()
    for line in sys.stdin:
        print(json.dumps([step() for _ in range(int(line))]), flush=True)


if __name__ == "__main__":
    main()
