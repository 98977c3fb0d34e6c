"""The whole pipeline, the scripts' way and ours, on the same problems, prompts and tokens.

    pip install torch transformers numpy safetensors
    cargo build --release && python3 bench/pipeline.py --repeats 3

The scripts' way, written afresh from its description: `generate(output_hidden_states=True)` with the states of all layers and
steps in memory, the last layer's as one float16 array on the disk for each generation; `prepare` pickles all labelled
states; `train` loads them and solves the normal equations in float32. Ours: `tpv generate`, `prepare` and `train`, and
`tpv generate --fit --keep_states none` with `tpv train`.

The two draw from different generators, so the peer is made to choose the tokens that we drew (all its sampling still runs):
both sides write the same texts over the same number of tokens. (Ours guesses tokens ahead, which changes no token; the
peer's `generate` cannot for several samples at once. `--draft_tokens 0` shows it without.) Sides take turns; the last lines
are medians and ratios. Of the peer the work alone is timed, without starting Python, importing torch and loading the model, and beside that
whole processes, which is what a user waits for; of ours whole processes always. Memory is the peak of the resident set above that of the loaded model; of it `held` are the states that generating
keeps (the scripts' states of all layers and steps, our samples' buffers) and, with `--fit`, the sums.
"""
import argparse
import json
import os
import pickle
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = "{problem}\nPlease reason step by step, and put your final answer within \\boxed{{}}.\n<think>\n"
END = "</think>"


# ---------------------------------------------------------------- the scripts' way, one process for each step

def memory(field):
    """`VmRSS` or `VmHWM` of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


class Measured:
    """Seconds and peak memory of what happens between `with` and its end."""

    def __enter__(self):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self.before, self.start = memory("VmRSS"), time.perf_counter()
        return self

    def __exit__(self, *_):
        self.secs = time.perf_counter() - self.start
        self.peak = memory("VmHWM") - self.before

    def report(self, **more):
        print(json.dumps({"secs": self.secs, "peak_bytes": self.peak, **more}))


class Forced:
    """Leaves one token to choose for each row: the one that was drawn before."""

    def __init__(self, prompt_tokens, rows, end):
        self.prompt_tokens, self.rows, self.end = prompt_tokens, rows, end

    def __call__(self, input_ids, scores):
        step = input_ids.shape[1] - self.prompt_tokens
        scores = scores.new_full(scores.shape, float("-inf"))
        for row, tokens in enumerate(self.rows):
            scores[row, tokens[step] if step < len(tokens) else self.end] = 0.0
        return scores


def peer_generate(args):
    import numpy
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessorList

    torch.set_num_threads(args.threads)
    drawn = json.loads((args.folder / "drawn.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    end = tokenizer.eos_token_id
    out, held, tokens = args.folder / "peer", 0, 0
    with Measured() as measured, torch.inference_mode():
        for problem in drawn:
            rows = problem["rows"]
            prompt = TEMPLATE.format(problem=problem["text"])
            inputs = tokenizer([prompt] * len(rows), return_tensors="pt")
            length = inputs["input_ids"].shape[1]
            assert inputs["input_ids"][0].tolist() == problem["prompt"], "both sides read the same prompt"
            made = model.generate(
                **inputs, max_new_tokens=args.max_new_tokens, do_sample=True, temperature=0.6, top_p=0.95, pad_token_id=end,
                return_dict_in_generate=True, output_hidden_states=True,
                logits_processor=LogitsProcessorList([Forced(length, rows, end)]),
            )
            held = max(held, sum(layer.nbytes for step in made.hidden_states for layer in step))
            last = [step[-1] for step in made.hidden_states]
            for row, wanted in enumerate(rows):
                folder = out / f"problem_{problem['index']}" / f"generation_{row}"
                folder.mkdir(parents=True)
                generated = made.sequences[row, length:length + len(wanted)].tolist()
                assert generated == wanted, "both sides write the same tokens"
                tokens += len(generated)
                states = torch.cat([state[row, -1:] for state in last[:len(generated)]]).to(torch.float16)
                numpy.save(folder / "token_hidden_states_output.npy", states.numpy())
                numpy.save(folder / "token_hidden_states_input.npy", last[0][row].to(torch.float16).numpy())
                ids = made.sequences[row].tolist()
                (folder / "tokens.json").write_text(json.dumps(tokenizer.convert_ids_to_tokens(ids)))
                (folder / "response.txt").write_text(tokenizer.decode(ids))
                about = {"input_prompt_length_tokens": length, "output_generated_length_tokens": len(generated)}
                (folder / "metadata.json").write_text(json.dumps(about))
    measured.report(held_bytes=held, tokens=tokens)


def peer_prepare(args):
    import numpy

    with Measured() as measured:
        thoughts = {}
        for folder in sorted((args.folder / "peer").iterdir()):
            for generation in sorted(folder.iterdir()):
                about = json.loads((generation / "metadata.json").read_text())
                start = about["input_prompt_length_tokens"]
                words = json.loads((generation / "tokens.json").read_text())
                words = words[start:start + about["output_generated_length_tokens"]]
                if END not in words:
                    continue
                count = words.index(END) + 1
                states = numpy.load(generation / "token_hidden_states_output.npy")[:count]
                labels = numpy.arange(1, count + 1, dtype=numpy.float32) / count
                thoughts.setdefault(folder.name, []).append((states, labels))
        names = list(thoughts)
        random.seed(42)
        random.shuffle(names)
        cut = int(len(names) * 0.8)
        for side, chosen in (("train", names[:cut]), ("test", names[cut:])):
            with open(args.folder / f"{side}.pkl", "wb") as file:
                pickle.dump([thought for name in chosen for thought in thoughts[name]], file)
    measured.report()


def peer_train(args):
    import numpy
    import torch

    torch.set_num_threads(args.threads)

    def load(side):
        with open(args.folder / f"{side}.pkl", "rb") as file:
            thoughts = pickle.load(file)
        join = lambda at: torch.from_numpy(numpy.concatenate([it[at] for it in thoughts]).astype(numpy.float32))
        return join(0), join(1)

    def fit(states, labels):
        gram = states.T @ states + 1e-10 * torch.eye(states.shape[1])
        return torch.linalg.solve(gram, states.T @ labels)

    with Measured() as measured:
        train, test = load("train"), load("test")
        error = torch.mean((test[0] @ fit(*train) - test[1]) ** 2).item()
        theta = fit(torch.cat([train[0], test[0]]), torch.cat([train[1], test[1]]))
        numpy.save(args.folder / "peer_theta.npy", theta.numpy())
    measured.report(test_mse=error)


def peer(args, step):
    words = [sys.executable, __file__, "--role", step, "--folder", args.folder, "--model", args.model,
             "--threads", str(args.threads), "--max_new_tokens", str(args.max_new_tokens)]
    start = time.perf_counter()
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return {"process_secs": time.perf_counter() - start, **json.loads(done.stdout.splitlines()[-1])}


# ---------------------------------------------------------------- ours

def ours(args, line):
    """Runs the program; seconds and peak memory of the process, and what it prints as JSON."""
    words = [str(args.tpv), "--json", *line.split()]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as talk:
        start = time.perf_counter()
        child = subprocess.Popen(words, stdout=out, stderr=talk, cwd=args.folder)
        _, status, usage = os.wait4(child.pid, 0)
        secs = time.perf_counter() - start
        out.seek(0), talk.seek(0)
        if status != 0:
            sys.exit(f"{' '.join(words)}\n{talk.read().decode()}")
        data = [json.loads(text)["data"] for text in out.read().decode().splitlines()]
    return {"secs": secs, "peak_bytes": usage.ru_maxrss * 1024, "data": data[-1] if data else None}


def generate_line(args, out, more=""):
    return (f"generate --model {args.model} --dataset thinker --dtype f32 --end_problem_index {args.problems} "
            f"--generations_per_problem {args.generations} --max_new_tokens {args.max_new_tokens} --threads {args.threads} "
            f"--output_dir {out} {more}" + (f" --max_batch {args.max_batch}" if args.max_batch else "")
            + (f" --draft_tokens {args.draft_tokens}" if args.draft_tokens is not None else ""))


def write_drawn(args, out):
    """The tokens that we drew, for the peer."""
    from safetensors import safe_open
    drawn = []
    for index in range(args.problems):
        with safe_open(args.folder / out / f"problem_{index}.safetensors", "np") as file:
            record = json.loads(file.metadata()["tpv_trace"])
            rows = [file.get_tensor(f"generation_{row}.token_ids").tolist() for row in range(args.generations)]
        drawn.append({"index": index, "text": record["problem_text"], "prompt": record["prompt_token_ids"], "rows": rows})
    (args.folder / "drawn.json").write_text(json.dumps(drawn))


def size(*paths):
    return sum(path.stat().st_size for path in paths)


def our_turn(args, loaded, kept):
    """One pass over our pipeline, with states on the disk or with sums alone."""
    folder = args.folder
    for name in ("run", "set", "vector"):
        shutil.rmtree(folder / name, ignore_errors=True)
    more = "--keep_states thinking" if kept else "--fit --keep_states none"
    steps = {"generate": ours(args, generate_line(args, "run", more))}
    if kept:
        steps["prepare"] = ours(args, "prepare --input_dir run --output_dir set")
    steps["train"] = ours(args, f"train {'set' if kept else 'run'} --output_dir vector")
    made = steps["generate"]["data"]
    files = list((folder / "run").glob("problem_*.safetensors"))
    return {
        "secs": {name: step["secs"] for name, step in steps.items()},
        "peak": {name: step["peak_bytes"] - (loaded if name == "generate" else 0) for name, step in steps.items()},
        "held": made["peak_state_bytes"] + (0 if kept else made["fit"]["bytes"]),
        "disk": size(*files) if kept else size(folder / "run" / "sums.safetensors"),
        "tokens": made["tokens"],
    }


def peer_turn(args):
    shutil.rmtree(args.folder / "peer", ignore_errors=True)
    steps = {name: peer(args, name) for name in ("generate", "prepare", "train")}
    arrays = (args.folder / "peer").glob("problem_*/generation_*/*.npy")
    return {
        "secs": {name: step["secs"] for name, step in steps.items()},
        "process_secs": sum(step["process_secs"] for step in steps.values()),
        "peak": {name: step["peak_bytes"] for name, step in steps.items()},
        "held": steps["generate"]["held_bytes"],
        "disk": size(*arrays, args.folder / "train.pkl", args.folder / "test.pkl"),
        "tokens": steps["generate"]["tokens"],
    }


# ---------------------------------------------------------------- the comparison

def process_secs(turn):
    """Seconds of whole processes; ours are never timed otherwise."""
    return turn.get("process_secs", sum(turn["secs"].values()))


def row(name, turns):
    middle = lambda of: statistics.median(of(turn) for turn in turns)
    secs = {step: middle(lambda turn: turn["secs"][step]) for step in turns[0]["secs"]}
    return {
        "way": name,
        "secs": secs,
        "total_secs": middle(lambda turn: sum(turn["secs"].values())),
        "process_secs": middle(process_secs),
        "tokens_per_sec": middle(lambda turn: turn["tokens"] / turn["secs"]["generate"]),
        "peak_bytes": {step: middle(lambda turn: turn["peak"][step]) for step in turns[0]["peak"]},
        "held_bytes": middle(lambda turn: turn["held"]),
        "disk_bytes": middle(lambda turn: turn["disk"]),
    }


def compare(args):
    import numpy

    write = lambda value: print(json.dumps(value), flush=True)
    ours(args, generate_line(args, "drawn"))
    write_drawn(args, "drawn")
    one = f"generate --model {args.model} --dataset thinker --dtype f32 --end_problem_index 1 --generations_per_problem 1 " \
          f"--max_new_tokens 1 --threads {args.threads} --output_dir one"
    loaded = ours(args, one)["peak_bytes"]
    turns = {"scripts": [], "tpv": [], "tpv --fit": []}
    for repeat in range(args.repeats):
        turns["scripts"].append(peer_turn(args))
        turns["tpv"].append(our_turn(args, loaded, kept=True))
        turns["tpv --fit"].append(our_turn(args, loaded, kept=False))
        write({"repeat": repeat, **{name: its[-1] for name, its in turns.items()}})
    rows = {name: row(name, its) for name, its in turns.items()}
    for it in rows.values():
        write(it)
    # Within a repeat, as the two ways take turns.
    def within(of, name):
        ratios = sorted(of(scripts) / of(mine) for scripts, mine in zip(turns["scripts"], turns[name]))
        return {"median": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]}

    theirs = rows["scripts"]
    for name in ("tpv", "tpv --fit"):
        mine = rows[name]
        ratio = lambda key: theirs[key] / max(mine[key], 1)
        write({
            "way": name,
            "times_faster": within(lambda turn: sum(turn["secs"].values()), name),
            "times_faster_as_processes": within(process_secs, name),
            "times_less_held": ratio("held_bytes"), "times_less_on_disk": ratio("disk_bytes"),
            "times_less_peak": max(theirs["peak_bytes"].values()) / max(1, *mine["peak_bytes"].values()),
        })
    a, b = (numpy.load(args.folder / name) for name in ("peer_theta.npy", "vector/tpv_linear_weights.npy"))
    write({"cosine_of_the_two_thetas": float(a @ b / numpy.linalg.norm(a) / numpy.linalg.norm(b))})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tpv", type=Path, default=ROOT / "target/release/tpv")
    parser.add_argument("--model", type=Path, default=ROOT / "thinker/model")
    parser.add_argument("--problems", type=int, default=30)
    parser.add_argument("--generations", type=int, default=5)
    parser.add_argument("--max_new_tokens", type=int, default=1024)
    parser.add_argument("--max_batch", type=int, help="of ours; its own default if not given")
    parser.add_argument("--draft_tokens", type=int, help="of ours; its own default if not given")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--role", choices=["generate", "prepare", "train"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role:
        return {"generate": peer_generate, "prepare": peer_prepare, "train": peer_train}[args.role](args)
    with tempfile.TemporaryDirectory() as folder:
        args.folder, args.tpv, args.model = Path(folder), args.tpv.resolve(), args.model.resolve()
        compare(args)


if __name__ == "__main__":
    main()
