"""All that was trained -> an ordinary model folder, and the archive of it.

Usage: export.py UNITS.pt DECODER.pt ENCODER.pt LM.pt FOLDER ARCHIVE.tar.xz

Tables are spread out to 2048 codes. The logits are multiplied, so that the sampling of the 7B does no harm. Weights are
rounded to few bits, which compress better; they stay ordinary fp16. The archive holds the same bytes every time.
"""

import io
import json
import lzma
import re
import sys
import tarfile
from pathlib import Path

import torch
from codec import (
    CLASS_CODES,
    FAR,
    HEARD,
    INNER,
    SILENCE,
    UNIT_CODES,
    VOICE_CODES,
    WIDTH,
    mimi_sizes,
)
from safetensors.torch import save
from sentences import COMMON, PERSONAS, SENTENCES
from speech import VOICES
from talks import LEAD, Talks
from train_decoder import Speaker
from train_lm import CHOSEN, lm_sizes, used_codes

from personaplex_cli.engine.prompting import lay_out
from personaplex_cli.library.spec import AGENT, PERSONAPLEX, SPEC_FILE, spec_with

SAMPLE = 14  # frames of a voice
SURE = 40.0  # logit of the codes that never differ from silence
CALM_TEXT, CALM_CODES = 1.6, 1.6  # what logits are multiplied by
BITS = 4  # of mantissa
NOTICE = Path(__file__).with_name("NOTICE.txt")
STACKED = re.compile(r"(.*self_attn\.)(in|out)_projs\.(\d+)\.weight")


def padded(small: torch.Tensor, shape) -> torch.Tensor:
    """Weights of fewer channels in the corner of a larger tensor of zeros."""
    large = torch.zeros(shape)
    large[tuple(slice(n) for n in small.shape)] = small
    return large


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    """fp16 with few bits of mantissa."""
    if tensor.ndim < 2:
        return tensor.half().contiguous()
    mantissa, exponent = torch.frexp(tensor.float())
    return torch.ldexp((mantissa * 2 ** (BITS + 1)).round() / 2 ** (BITS + 1), exponent).half().contiguous()


def codebooks(data, speaker: Speaker) -> list[torch.Tensor]:
    """The vectors [2048, INNER] of the codes of each codebook."""
    books = []
    for k in range(8):
        book = torch.zeros(2048, INNER)
        book[:, -1] = FAR
        if k == 0:
            book[torch.tensor(CLASS_CODES), : INNER - HEARD] = 0
            book[torch.tensor(CLASS_CODES), -HEARD:] = data["classes"]
            book[torch.tensor(UNIT_CODES[: len(speaker.units)]), : INNER - HEARD] = speaker.units.detach()
        if k == 1:  # here nothing is ever nearer than silence: the input is zero
            book[:] = 50.0
            book[torch.tensor(VOICE_CODES[: len(speaker.voices)])] = speaker.voices.detach()
        book[SILENCE[k]] = 0
        books.append(book)
    return books


def codec_state(data, speaker: Speaker, ears) -> dict[str, torch.Tensor]:
    """The codec's weights: one half of each training."""
    state = {name: tensor.clone() for name, tensor in speaker.mimi.state_dict().items()}
    for name, tensor in ears.items():
        if name.startswith(("encoder", "downsample")):
            state[name] = padded(tensor, state[name].shape)
    hearing = torch.zeros(INNER, WIDTH, 1)
    hearing[-HEARD:] = ears["quantizer.rvq_first.input_proj.weight"][-HEARD:]
    hearing[-1] = 0
    state["quantizer.rvq_first.input_proj.weight"] = hearing
    state["quantizer.rvq_first.output_proj.weight"][:, -HEARD:] = 0
    state["quantizer.rvq_rest.input_proj.weight"].zero_()
    for k, book in enumerate(codebooks(data, speaker)):
        base = "quantizer.rvq_first.vq.layers.0" if k == 0 else f"quantizer.rvq_rest.vq.layers.{k - 1}"
        state[f"{base}._codebook.embedding_sum"] = book
        state[f"{base}._codebook.cluster_usage"] = torch.ones(2048)
        state[f"{base}._codebook._initialized"] = torch.ones(1)
    return state


def spread(value: torch.Tensor, codes: list[int], is_head: bool) -> torch.Tensor:
    """A small table with a row for each of `codes`, one for all others and one for "not begun", for all 2048."""
    if is_head:
        full = value[-1][None].repeat(2048, 1)
    else:
        full = torch.zeros(2049, value.shape[1])
        full[2048] = value[-1]
    full[torch.tensor(codes)] = value[: len(codes)]
    return full


def lm_state(small, data) -> dict[str, torch.Tensor]:
    """The language model's weights; the depformer's steps that always choose silence are made by hand."""
    used = used_codes(data)
    state = {}
    for name, value in small.items():
        kind, _, rest = name.partition(".")
        if kind in ("emb", "linears", "depformer_emb"):
            row = int(rest.split(".")[0])
            # No user is ever heard to say a unit.
            codes = used[0][: 2 + len(CLASS_CODES)] if (kind, row) == ("emb", 8) else used[row % 8]
            value = spread(value, codes, kind == "linears") * (CALM_CODES if kind == "linears" else 1)
        elif kind == "text_linear":
            value = value * CALM_TEXT
        state[name] = value
    width = small["depformer_in.0.weight"].shape[0]
    for k in range(CHOSEN, 8):
        state[f"depformer_in.{k}.weight"] = torch.zeros_like(small["depformer_in.0.weight"])
        state[f"depformer_emb.{k - 1}.weight"] = torch.ones(2049, width)  # whatever the code before was
        head = torch.zeros(2048, width)
        head[SILENCE[k]] = SURE / width
        state[f"linears.{k}.weight"] = head
        for name, value in small.items():
            for part in (".gating.0.", ".in_projs.0.", ".out_projs.0."):
                if name.startswith("depformer.layers") and part in name:
                    state[name.replace(part, part.replace("0", str(k)))] = torch.zeros_like(value)
    return stacked(state)


def stacked(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """moshi's names -> those in checkpoint files, where the steps of attention weights lie in one tensor."""
    steps, out = {}, {}
    for name, value in state.items():
        if found := STACKED.fullmatch(name):
            whole = found[1] + ("in_proj_weight" if found[2] == "in" else "out_proj.weight")
            steps.setdefault(whole, {})[int(found[3])] = value
        else:
            out[name] = value.contiguous()
    for name, parts in steps.items():
        out[name] = torch.cat([parts[step] for step in sorted(parts)])
    return out


def saved_voice(codes: torch.Tensor, weights, spec) -> bytes:
    """A voice [8, n] as the reference saves it."""
    n, columns = codes.shape[1], lay_out(codes, [], spec).columns
    seen = columns[:, : n - 1]
    embedded = weights["text_emb.weight"][seen[0]].float()
    for row in range(1, 17):
        embedded = embedded + weights[f"emb.{row - 1}.weight"][seen[row]].float()
    cache = torch.zeros(1, 17, 4, dtype=torch.long)
    for position in range(n - 2, n + 1):
        cache[0, :, position % 4] = columns[:, position]
    file = io.BytesIO()
    torch.save({"embeddings": embedded.half()[:, None, None], "cache": cache}, file)
    return file.getvalue()


def tar(files: dict[str, bytes]) -> bytes:
    """The files in an archive in which nothing but they can differ."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return whole.getvalue()


def about_sentences(data) -> str:
    """What tests need to know: which codes are which frames of which sentence, and when its words begin."""
    owners = {text: name for name, own in PERSONAS.items() for text in own}
    greetings = [own[0] for own in PERSONAS.values()]
    sentences = []
    for (start, end), words, text in zip(data["spans"], data["words"], SENTENCES, strict=True):
        codes = [UNIT_CODES[unit] for unit in data["unit"][start:end].tolist()]
        begins = [int(begin / 0.08) for _, begin, _ in words]
        kind = "greeting" if text in greetings else "answer" if text in owners or text in COMMON else "other"
        about = {"text": text, "persona": owners.get(text), "kind": kind, "units": codes, "words_begin": begins}
        sentences.append(about)
    voices = {name: {"code": VOICE_CODES[i], **vars(voice)} for i, (name, voice) in enumerate(VOICES.items())}
    return json.dumps({"text_leads_by": LEAD, "silence": SILENCE, "voices": voices, "sentences": sentences})


def main(units: Path, decoder: Path, encoder: Path, lm: Path, folder: Path, out: Path) -> None:
    """Write the folder and the archive."""
    data = torch.load(units, weights_only=False)
    speaker = Speaker(data)
    speaker.load_state_dict(loaded(decoder))
    tokenizer = lm.with_suffix(".model").read_bytes()
    talks = Talks(data, tokenizer, lambda pieces: spec_with({"lm": lm_sizes(pieces)}))
    sizes = {"lm": lm_sizes(talks.pieces.get_piece_size()), "mimi": mimi_sizes()}
    codec = {name: rounded(tensor) for name, tensor in stacked(codec_state(data, speaker, loaded(encoder))).items()}
    weights = {name: rounded(tensor) for name, tensor in lm_state(loaded(lm), data).items()}
    voices = {}
    for number, name in enumerate(VOICES):
        line = talks.lines[(number * 5) % len(talks.lines)][:, LEAD : LEAD + SAMPLE]
        voices[f"voices/{name}.pt"] = saved_voice(talks.said_by(line, number)[AGENT], weights, talks.spec)
    files = {
        PERSONAPLEX.weights_file: save(weights),
        PERSONAPLEX.mimi_file: save(codec),
        PERSONAPLEX.tokenizer_file: tokenizer,
        SPEC_FILE: json.dumps(sizes, indent=1).encode(),
        "sentences.json": about_sentences(data).encode(),
        "NOTICE.txt": NOTICE.read_bytes(),
        **voices,
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    out.write_bytes(lzma.compress(tar(files), preset=9 | lzma.PRESET_EXTREME))
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, {sum(map(len, files.values())) / 1e6:.1f} MB unpacked")


def loaded(path: Path):
    """Weights from a finished training, or from one under way."""
    state = torch.load(path, weights_only=True)
    return state.get("module", state)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:7]))
