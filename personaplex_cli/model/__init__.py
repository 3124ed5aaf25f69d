"""The rooms that know torch and moshi: weights, prompt, step loop, demo model.

moshi compiles small pieces with `torch.compile` on first use, which stalls for seconds and fails without a compiler.
It looks at this variable while it is imported, so it is set before anything here imports it.
"""

import os

os.environ["NO_TORCH_COMPILE"] = "1"
