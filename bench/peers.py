"""How fast this program is beside its peers, on the same weights and the same machine.

    pip install torch transformers gguf
    pip install cmake ninja && CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python
    cargo build --release
    python3 bench/make_checkpoint.py /tmp/checkpoints
    python3 bench/peers.py check /tmp/checkpoints/*
    python3 bench/peers.py run /tmp/checkpoints/* --rounds 3 --json peers.jsonl
    python3 bench/peers.py table peers.jsonl

`run` lets the programs take turns, each time in a new process with the same number of threads: prefill of 512 tokens, then
decoding at batch 1, 8 and 32 over a context of 64 tokens. It appends a line of JSON for each measurement, so rounds may be
made in several calls. `table` prints medians over rounds, and ratios within a round with their smallest and largest value.
`check` shows that the programs compute the same: greedy tokens and final states in f32 as transformers', states of the GGUF
files no farther from them than llama.cpp's.
"""
import argparse
import json
import platform
import subprocess
import sys
import tempfile
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
NEW_TOKENS = 32  # that `check` generates
MEASURES = ["prefill", "batch 1", "batch 8", "batch 32"]

# Our program beside the peer that does the same work. Monitored decoding stands beside the way that returns states.
PAIRS = [
    ("tpv q8_0", "llama.cpp Q8_0"),
    ("tpv q8_0", "llama.cpp F16"),
    ("tpv q8_0", "transformers bf16"),
    ("tpv q8_0", "transformers f32"),
    ("tpv q8_0, monitored", "transformers bf16, all states"),
    ("tpv q8_0, monitored", "transformers f32, all states"),
    ("tpv f32", "transformers f32"),
    ("tpv f32, monitored", "transformers f32, all states"),
]


def last_json_line(command):
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\nfailed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def speeds(result, field, with_prefill=True):
    """Tokens per second of every measure."""
    decode = {f"batch {d['batch']}": 1e3 * d["batch"] / d[field] for d in result["decode"]}
    return {"prefill": result["prefill_tokens_per_sec"], **decode} if with_prefill else decode


def run_tpv(checkpoint, args, dtype):
    result = last_json_line([args.tpv, "bench", checkpoint, "--json", "--dtype", dtype, "--device", "cpu", "--threads",
                             args.threads, "--batch", args.batch, "--prompt_tokens", args.prompt_tokens, "--steps", args.steps])["data"]
    extra = {"peak_memory_mib": result["peak_memory_mib"], "weight_bytes": result["weight_bytes"]}
    yield f"tpv {dtype}", speeds(result, "loop_step_ms"), extra
    yield f"tpv {dtype}, monitored", speeds(result, "monitored_step_ms", with_prefill=False), {}


def run_transformers(checkpoint, args, dtype):
    torch_name = {"f32": "float32", "bf16": "bfloat16"}[dtype]
    result = last_json_line([sys.executable, HERE / "peer_transformers.py", checkpoint, "--dtype", torch_name, *shared(args)])
    yield f"transformers {dtype}", speeds(result, "forward_step_ms"), {"peak_memory_mib": result["peak_memory_mib"]}
    yield f"transformers {dtype}, generate", speeds(result, "generate_step_ms", with_prefill=False), {}
    yield f"transformers {dtype}, all states", speeds(result, "all_states_step_ms", with_prefill=False), {}


def run_llama_cpp(checkpoint, args, file):
    result = last_json_line([sys.executable, HERE / "peer_llama_cpp.py", checkpoint / f"{file.lower()}.gguf", *shared(args)])
    yield f"llama.cpp {file}", speeds(result, "step_ms"), {"peak_memory_mib": result["peak_memory_mib"]}


def shared(args):
    return ["--threads", args.threads, "--batch", args.batch, "--prompt_tokens", args.prompt_tokens, "--steps", args.steps]


PROGRAMS = {
    "tpv-f32": (run_tpv, "f32"),
    "tpv-q8_0": (run_tpv, "q8_0"),
    "transformers-f32": (run_transformers, "f32"),
    "transformers-bf16": (run_transformers, "bf16"),
    "llama.cpp-F16": (run_llama_cpp, "F16"),
    "llama.cpp-Q8_0": (run_llama_cpp, "Q8_0"),
}


def machine():
    cpu = platform.processor()
    try:
        cpu = next(line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{cpu}, {platform.machine()}, {platform.system()}"


def versions(args):
    found = {"tpv": subprocess.run([args.tpv, "--version"], capture_output=True, text=True).stdout.strip()}
    for package in ("torch", "transformers", "llama-cpp-python"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            pass
    return found


def run(args):
    past = read(args.json) if args.json.exists() else []
    first_round = 1 + max((row["round"] for row in past), default=-1)
    about = {"date": date.today().isoformat(), "machine": machine(), "threads": args.threads, "versions": versions(args)}
    for round_number in range(first_round, first_round + args.rounds):
        for checkpoint in args.checkpoints:
            turn = round_number % len(args.programs)
            for name in args.programs[turn:] + args.programs[:turn]:
                runner, variant = PROGRAMS[name]
                for program, tokens_per_sec, extra in runner(checkpoint, args, variant):
                    row = {"checkpoint": checkpoint.name, "round": round_number, "program": program,
                           "tokens_per_sec": tokens_per_sec, **extra, **about}
                    with open(args.json, "a") as out:
                        out.write(json.dumps(row) + "\n")
                print(f"round {round_number} {checkpoint.name} {name}", file=sys.stderr, flush=True)
    table(args)


def read(path):
    return [json.loads(line) for line in open(path)]


def table(args):
    rows = read(args.json)
    about = {key: sorted({json.dumps(row[key]) for row in rows}) for key in ("date", "machine", "threads", "versions")}
    print("\n".join(f"{key}: {'; '.join(values)}" for key, values in about.items()))
    for checkpoint in dict.fromkeys(row["checkpoint"] for row in rows):
        mine = [row for row in rows if row["checkpoint"] == checkpoint]
        programs = list(dict.fromkeys(row["program"] for row in mine))
        print(f"\n### {checkpoint}, tokens per second (median of {len({row['round'] for row in mine})} rounds)\n")
        print_rows(["program", *MEASURES, "peak memory, MiB"], [
            [program, *(number(over_rounds(mine, program, measure)) for measure in MEASURES),
             number([row["peak_memory_mib"] for row in mine if row["program"] == program and "peak_memory_mib" in row])]
            for program in programs])
        print(f"\n### {checkpoint}, times as fast (median of the rounds' ratios, smallest to largest)\n")
        print_rows(["", *MEASURES], [[f"{us} : {peer}", *(ratio(mine, us, peer, measure) for measure in MEASURES)]
                                     for us, peer in PAIRS if us in programs and peer in programs])


def over_rounds(rows, program, measure):
    """The figure of each round in which the program ran."""
    return [row["tokens_per_sec"][measure] for row in rows if row["program"] == program and measure in row["tokens_per_sec"]]


def number(values):
    if not values:
        return ""
    middle = median(values)
    return f"{middle:,.0f}" if middle >= 100 else f"{middle:.1f}"


def ratio(rows, us, peer, measure):
    by_program = {program: {row["round"]: row["tokens_per_sec"][measure] for row in rows
                            if row["program"] == program and measure in row["tokens_per_sec"]} for program in (us, peer)}
    ratios = [by_program[us][n] / by_program[peer][n] for n in by_program[us].keys() & by_program[peer].keys()]
    return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else ""


def print_rows(header, rows):
    for cells in [header, ["---"] * len(header), *rows]:
        print("| " + " | ".join(cells) + " |")


def check(args):
    """In f32 the same greedy tokens and states as transformers. Of GGUF files, whose number format is coarser: states no
    farther from those of transformers in f32 than llama.cpp's from the same file."""
    results = [check_checkpoint(checkpoint, args) for checkpoint in args.checkpoints]
    sys.exit(not all(results))


def greedy_trace(model, args, dtype):
    """Prompt, generated tokens and their states `[tokens, d]` of our program."""
    from safetensors import safe_open
    with tempfile.TemporaryDirectory() as folder:
        problems = Path(folder) / "problems.jsonl"
        problems.write_text(json.dumps({"problem": "Add 17 and 25, then take 9 away."}) + "\n")
        done = subprocess.run([args.tpv, "generate", "--model", model, "--dataset", problems, "--end_problem_index", "1",
                               "--generations_per_problem", "1", "--max_new_tokens", str(NEW_TOKENS), "--do_sample", "False",
                               "--states_dtype", "f32", "--device", "cpu", "--dtype", dtype, "--threads", str(args.threads),
                               "--output_dir", f"{folder}/traces"], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"tpv generate failed on {model}:\n{done.stderr[-2000:]}")
        with safe_open(f"{folder}/traces/problem_0.safetensors", "np") as file:
            record = json.loads(file.metadata()["tpv_trace"])
            return (record["prompt_token_ids"], file.get_tensor("generation_0.token_ids").tolist(),
                    file.get_tensor("generation_0.hidden_states"))


def relative_error(ours, theirs):
    import numpy as np
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def check_checkpoint(checkpoint, args):
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    files = [check_gguf(model, checkpoint / f"{name}.gguf", args, dtype) for name, dtype in [("f16", "auto"), ("q8_0", "q8_0")]]
    return check_greedy(model, checkpoint, args) and all(files)


def check_greedy(model, checkpoint, args):
    import torch
    from transformers import GenerationConfig
    prompt, tokens, states = greedy_trace(checkpoint, args, "f32")
    ids = torch.tensor([prompt])
    options = GenerationConfig(do_sample=False, max_new_tokens=NEW_TOKENS, pad_token_id=0,
                               eos_token_id=model.generation_config.eos_token_id)
    model.generation_config = GenerationConfig()
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=options)
    same = tokens == out[0, len(prompt):].tolist()
    error = relative_error(states, exact_states(model, prompt, tokens))
    print(f"{checkpoint.name}, f32: {len(tokens)} greedy tokens ({len(set(tokens))} different) "
          f"{'as' if same else 'NOT AS'} transformers chooses them, states {error:.1e} apart", flush=True)
    return same and error < 1e-4


def exact_states(model, prompt, tokens):
    """States after the final norm that predict the tokens, `[tokens, d]`, by transformers in f32."""
    import torch
    with torch.inference_mode():
        out = model.model(torch.tensor([prompt + tokens[:-1]]))
    return out.last_hidden_state[0, len(prompt) - 1:].numpy()


def check_gguf(model, path, args, dtype):
    import numpy as np
    import peer_llama_cpp as peer
    prompt, tokens, states = greedy_trace(path, args, dtype)
    context = peer.Context(peer.Model(path), 1, len(prompt) + len(tokens), args.threads, states=True)
    text = prompt + tokens[:-1]
    context.step([text], wants_all=True)
    slots = range(len(prompt) - 1, len(text))
    theirs = np.stack([context.state(slot) for slot in slots])
    agreeing = sum(int(context.logits(slot).argmax()) == token for slot, token in zip(slots, tokens))
    context.close()
    exact = exact_states(model, prompt, tokens)
    ours_off, theirs_off = relative_error(states, exact), relative_error(theirs, exact)
    print(f"{path.parent.name}, {path.name}: states {ours_off:.1e} from transformers in f32, llama.cpp's {theirs_off:.1e}, "
          f"{relative_error(states, theirs):.1e} between the two; {agreeing} of {len(tokens)} greedy tokens are llama.cpp's "
          "choice too", flush=True)
    return ours_off < 1.25 * theirs_off


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, function in [("run", run), ("check", check)]:
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("checkpoints", nargs="+", type=Path)
        command.add_argument("--tpv", default=HERE.parent / "target" / "release" / "tpv", type=Path)
        command.add_argument("--threads", default=2, type=int)
        if name == "run":
            command.add_argument("--rounds", default=3, type=int)
            command.add_argument("--batch", default="1,8,32")
            command.add_argument("--prompt_tokens", default=512, type=int)
            command.add_argument("--steps", default=32, type=int)
            command.add_argument("--json", default=Path("peers.jsonl"), type=Path)
            command.add_argument("--programs", default=list(PROGRAMS), type=lambda text: text.split(","),
                                 help="separated by commas: " + ", ".join(PROGRAMS))
    command = commands.add_parser("table")
    command.add_argument("json", type=Path)
    command.set_defaults(function=table)
    args = parser.parse_args()
    unknown = set(getattr(args, "programs", [])) - PROGRAMS.keys()
    if unknown:
        sys.exit(f"no program is named {', '.join(unknown)}; there are {', '.join(PROGRAMS)}")
    args.function(args)


if __name__ == "__main__":
    main()
