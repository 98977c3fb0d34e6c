#!/usr/bin/env python3
"""Makes pairs.jsonl: pairs of answers with math-verify's verdict on each, for the comparison in ../grading.rs.

    python3 make_pairs.py MATH500.jsonl GSM8K.jsonl > pairs.jsonl

MATH500.jsonl has the field `answer`; GSM8K.jsonl has `answer` with the number after `####`.
One line a pair: kind, candidate, gold, math_verify (true: equal). The same input and seed give the same pairs.

Needs: pip install math-verify==0.9.0
"""

import json
import random
import re
import sys

from math_verify import parse, verify

SEED = 20


def gold_answers(path):
    return [json.loads(line)["answer"] for line in open(path, encoding="utf-8")]


def gsm8k_answers(path):
    return [answer.split("####")[-1].strip() for answer in gold_answers(path)]


def is_whole(text):
    return re.fullmatch(r"-?\d+", text) is not None


def fraction(text):
    """(sign, above, below) of a plain \\frac{a}{b}."""
    found = re.fullmatch(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}", text)
    return found and (found[1], int(found[2]), int(found[3]))


def rewritings(gold):
    """Texts that say the same as the gold answer."""
    yield "spaces", " " + gold.replace(" ", "  ") + " "
    yield "dfrac", gold.replace("\\dfrac", "\\frac").replace("\\frac", "\\dfrac")
    yield "tfrac", gold.replace("\\dfrac", "\\frac").replace("\\frac", "\\tfrac")
    if "\\left" in gold:
        yield "left_right", gold.replace("\\left", "").replace("\\right", "")
    elif "\\text" not in gold:
        yield "left_right", gold.replace("(", "\\left(").replace(")", "\\right)")
    yield "degrees", gold.replace("^\\circ", "^{\\circ}")
    yield "degrees", gold.replace("^\\circ", "")
    yield "matrix", gold.replace("pmatrix", "bmatrix")
    yield "text", re.sub(r"\\(?:text|mbox)\{([^}]*)\}", r"\1", gold)
    yield "text", re.sub(r"\\(?:text|mbox)\{[^}]*\}(\^2)?", "", gold) if gold[0].isdigit() else gold
    yield "thousands", gold.replace("\\!", "").replace(", ", ",")
    yield "thousands", gold.replace("\\$", "").replace("\\!", "").replace(", ", ",")
    yield "product", re.sub(r"(\d) ?\\sqrt", r"\1 \\cdot \\sqrt", gold)
    yield "sqrt", re.sub(r"\\sqrt(\d)", r"\\sqrt{\1}", gold)
    yield "order", "+".join(reversed(gold.split("+"))) if re.fullmatch(r"[\w\\{}^ ]+\+[\w\\{}^ ]+", gold) else gold
    yield "order", re.sub(r"^(.+) \\cup (.+)$", r"\2 \\cup \1", gold)
    parts = gold.strip("\\{}").split(",")
    if re.fullmatch(r"-?\d+(, ?-?\d+)+", gold):
        yield "order", ",".join(reversed(parts))
        yield "set", "\\{" + gold + "\\}"
    if "\\pm" in gold and "{1" not in gold:
        yield "plus_minus", gold.replace("\\pm", "+") + ", " + gold.replace("\\pm", "-")
    yield from whole_number_rewritings(gold)
    yield from fraction_rewritings(gold)


def whole_number_rewritings(gold):
    if not is_whole(gold):
        return
    value = int(gold)
    yield "assignment", f"x = {gold}"
    yield "decimal", f"{gold}.0"
    yield "fraction", f"\\frac{{{3 * value}}}{{3}}"
    yield "sum", f"{value - 4} + 4"
    yield "unit", gold + " \\text{ cm}"
    yield "unit", gold + " \\text{ square units}"
    if abs(value) >= 1000:
        yield "thousands", f"{value:,}"
        yield "thousands", f"{value:,}".replace(",", "{,}")
    if value > 0:
        yield "root", f"\\sqrt{{{value * value}}}"


def fraction_rewritings(gold):
    parts = fraction(gold)
    if not parts:
        return
    sign, above, below = parts
    yield "slash", f"{sign}{above}/{below}"
    yield "multiple", f"{sign}\\frac{{{5 * above}}}{{{5 * below}}}"
    yield "quotient", f"{sign}{above} \\div {below}"
    decimal = above / below
    if round(decimal, 8) == decimal:
        yield "decimal", f"{sign}{decimal}"
        if decimal < 1:
            yield "percent", f"{sign}{round(100 * decimal, 6)}\\%"
    else:
        yield "rounded", f"{sign}{decimal:.2f}"
        yield "rounded", f"{sign}{decimal:.7f}"
    if above > below:
        yield "mixed", f"{sign}{above // below}\\frac{{{above % below}}}{{{below}}}"


def near_misses(gold, rng):
    """Texts that look like the gold answer and (nearly always) say something else."""
    yield "sign", gold[1:] if gold.startswith("-") else "-" + gold
    digits = [match for match in re.finditer(r"\d", gold)]
    if digits:
        at = rng.choice(digits).start()
        other = rng.choice([digit for digit in "123456789" if digit != gold[at]])
        yield "digit", gold[:at] + other + gold[at + 1 :]
    numbers = [match for match in re.finditer(r"\d+", gold)]
    if numbers:
        match = rng.choice(numbers)
        shifted = str(int(match[0]) + rng.choice([1, -1, 10]))
        yield "off_by_one", gold[: match.start()] + shifted + gold[match.end() :]
    yield "inner_sign", gold.replace("+", "-", 1) if "+" in gold else gold.replace(" - ", " + ", 1)
    yield "bracket", gold.replace("(", "[", 1) if "," in gold else gold
    yield "bracket", gold.replace("]", ")", 1) if "," in gold else gold
    swapped = re.fullmatch(r"\(([^,]+),([^,]+)\)", gold)
    if swapped:
        yield "swapped", f"({swapped[2].strip()}, {swapped[1].strip()})"
    parts = fraction(gold)
    if parts:
        yield "upside_down", f"{parts[0]}\\frac{{{parts[2]}}}{{{parts[1]}}}"
    yield "no_root", re.sub(r"\\sqrt\{(\d+)\}", r"\\cdot \1", gold) if gold[0].isdigit() else gold
    yield "no_root", re.sub(r"^\\sqrt\{(\d+)\}$", r"\1", gold)
    yield "no_pi", re.sub(r"(\d) ?\\pi", r"\1", gold)
    yield "exponent", re.sub(r"\^(\d)", lambda found: "^" + str(int(found[1]) + 1), gold, count=1)
    yield "dropped", ",".join(gold.split(",")[:-1]) if re.fullmatch(r"-?\d+(, ?-?\d+)+", gold) else gold
    yield "i_dropped", re.sub(r"(\d)i$", r"\1", gold)
    if is_whole(gold) and len(gold) < 4:
        yield "factor", gold + "0"
        yield "factor", f"{int(gold) / 10}"


def gsm8k_pairs(golds, rng):
    for at, gold in enumerate(golds):
        value = float(gold.replace(",", ""))
        whole = int(value)
        forms = [
            ("gsm8k_same", gold),
            ("gsm8k_dollar", f"\\${gold}"),
            ("gsm8k_cents", f"{value:.2f}"),
            ("gsm8k_comma", f"{whole:,}"),
            ("gsm8k_unit", f"{gold} \\text{{ dollars}}"),
            ("gsm8k_off", f"{whole + rng.choice([1, -1, 2, 10, 100])}"),
            ("gsm8k_half", f"{value / 2:g}"),
            ("gsm8k_other", golds[(at + 1) % len(golds)]),
        ]
        for kind, candidate in rng.sample(forms, 3):
            yield kind, candidate, gold


def algebra_pairs():
    """Written by hand: equal and unequal expressions of the kinds the two data sets have few of."""
    return [
        ("(x+1)^2", "x^2+2x+1"), ("(x+1)^2", "x^2+2x-1"), ("(x-2)(x+2)", "x^2-4"), ("x(x+1)", "x^2+x"), ("2(a+b)", "2a+2b"),
        ("\\frac{x^2-1}{x-1}", "x+1"), ("\\frac{1}{x}+\\frac{1}{y}", "\\frac{x+y}{xy}"), ("\\frac{x}{2}", "0.5x"),
        ("\\frac{x}{2}", "\\frac{2}{x}"), ("x^3-y^3", "(x-y)(x^2+xy+y^2)"), ("x^3-y^3", "(x-y)(x^2-xy+y^2)"),
        ("\\sqrt{x^2+1}", "x+1"), ("\\sqrt{8}", "2\\sqrt{2}"), ("\\sqrt{8}", "4\\sqrt{2}"), ("\\frac{1}{\\sqrt{2}}", "\\frac{\\sqrt{2}}{2}"),
        ("\\frac{1}{\\sqrt{3}}", "\\frac{\\sqrt{3}}{3}"), ("\\frac{1}{1+\\sqrt{2}}", "\\sqrt{2}-1"), ("\\sqrt{3+2\\sqrt{2}}", "1+\\sqrt{2}"),
        ("\\sqrt[3]{27}", "3"), ("\\sqrt[3]{16}", "2\\sqrt[3]{2}"), ("2^{10}", "1024"), ("2^{10}", "1000"), ("2^{-1}", "\\frac12"),
        ("8^{1/3}", "2"), ("10^{-3}", "0.001"), ("5!", "120"), ("\\binom{6}{3}", "20"), ("\\binom{6}{3}", "18"), ("|-5|", "5"),
        ("\\pi", "3.14"), ("\\frac{\\pi}{4}", "\\frac{2\\pi}{8}"), ("2\\pi r", "2r\\pi"), ("\\pi r^2", "2\\pi r"), ("e^2", "e^{2}"),
        ("\\ln 4", "2\\ln 2"), ("\\ln 4", "2\\ln 3"), ("\\log_2 8", "3"), ("\\log_{2}{8}", "4"), ("\\sin\\frac{\\pi}{6}", "\\frac12"),
        ("\\cos 0", "1"), ("\\tan\\frac{\\pi}{4}", "1"), ("\\sin x\\cos x", "\\cos x\\sin x"), ("\\sin^2 x+\\cos^2 x", "1"),
        ("3+4i", "4i+3"), ("3+4i", "3-4i"), ("(1+i)^2", "2i"), ("i^2", "-1"), ("[1,2]", "[1,2]"), ("[1,2)", "[1,2]"), ("(1,2)", "(2,1)"),
        ("(-\\infty,3)", "(-\\infty, 3)"), ("(-\\infty,3)", "(-\\infty,3]"), ("(0,1)\\cup(2,3)", "(2,3)\\cup(0,1)"),
        ("(0,1)\\cup(2,3)", "(0,1)\\cup(2,4)"), ("\\{1,2,3\\}", "\\{3,2,1\\}"), ("\\{1,2,3\\}", "\\{1,2\\}"), ("1,2,3", "3,1,2"),
        ("(1,2,3)", "(1,3,2)"), ("(\\frac12,3)", "(0.5,3)"), ("x=3", "3"), ("3", "x=3"), ("x=3", "x=4"), ("y=2x+1", "y=1+2x"),
        ("y=2x+1", "2x-y+1=0"), ("y=2x+1", "y=2x-1"), ("2x+3y=6", "4x+6y=12"), ("2x+3y=6", "4x+6y=10"), ("x\\le 2", "(-\\infty,2]"),
        ("x>2", "(2,\\infty)"), ("1<x<2", "(1,2)"), ("x>2", "x\\ge 2"), ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1 & 2\\\\ 3 & 4\\end{pmatrix}"),
        ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}"), ("\\begin{pmatrix}0.5\\\\2\\end{pmatrix}", "\\begin{pmatrix}\\frac12\\\\2\\end{pmatrix}"),
        ("50\\%", "0.5"), ("50\\%", "\\frac12"), ("50\\%", "50"), ("5\\%", "0.5"), ("12.5\\%", "\\frac18"), ("1\\frac12", "1.5"), ("2\\frac34", "\\frac{11}{4}"),
        ("2\\frac34", "\\frac{6}{4}"), ("1{,}234", "1234"), ("1,234", "1234"), ("1,234,567", "1234567"), ("0.333333", "\\frac13"), ("0.33", "\\frac13"),
        ("0.142857", "\\frac17"), ("3.141593", "\\pi"), ("1.414214", "\\sqrt2"), ("1.41", "\\sqrt2"), ("90^\\circ", "90"), ("45^\\circ", "\\frac{\\pi}{4}"),
        ("10\\text{ cm}", "10"), ("10\\text{ m}", "10\\text{ cm}"), ("\\text{east}", "\\text{East}"), ("\\text{east}", "\\text{west}"), ("\\text{(A)}", "A"),
        ("(A)", "\\text{(A)}"), ("\\text{(A)}", "\\text{(B)}"), ("12_8", "12_8"), ("12_8", "12_{8}"), ("12_8", "13_8"), ("12_8", "12_9"), ("a+b", "b+a"),
        ("a-b", "b-a"), ("ab", "ba"), ("\\frac{a}{b}", "\\frac{b}{a}"), ("2k+1", "2n+1"), ("x^2", "x^3"), ("x^{10}", "x^{100}"), ("-x^2", "(-x)^2"),
        ("\\frac{-1}{2}", "-\\frac12"), ("\\frac{1}{-2}", "-\\frac12"), ("-(-3)", "3"), ("3\\times 10^4", "30000"), ("3\\cdot 10^{-2}", "0.03"), ("6:8", "3:4"),
        ("0", "-0"), ("0.0", "0"), ("00012", "12"), ("1.50", "1.5"), (".5", "0.5"), ("5.", "5"), ("\\frac{0}{7}", "0"), ("7/1", "7"), ("\\infty", "\\infty"),
        ("-\\infty", "\\infty"), ("1 \\pm \\sqrt2", "1 + \\sqrt2, 1 - \\sqrt2"), ("\\pm 3", "3, -3"), ("\\pm 3", "3"), ("\\emptyset", "\\{\\}"),
    ]


def pairs(math500, gsm8k):
    rng = random.Random(SEED)
    for at, gold in enumerate(math500):
        yield "same", gold, gold
        yield "other_problem", math500[(at + 1) % len(math500)], gold
        forms = list(rewritings(gold))
        for kind, candidate in rng.sample(forms, min(len(forms), 7)):
            yield kind, candidate, gold
        misses = [miss for miss in near_misses(gold, rng) if miss[1] != gold]
        for kind, candidate in rng.sample(misses, min(len(misses), 3)):
            yield "near_" + kind, candidate, gold
    yield from gsm8k_pairs(rng.sample(gsm8k, 200), rng)
    for candidate, gold in algebra_pairs():
        yield "algebra", candidate, gold


def judge(candidate, gold):
    return bool(verify(parse(f"\\boxed{{{gold}}}"), parse(f"\\boxed{{{candidate}}}")))


def main():
    seen = set()
    for kind, candidate, gold in pairs(gold_answers(sys.argv[1]), gsm8k_answers(sys.argv[2])):
        trivial = kind not in ("same", "other_problem") and candidate == gold
        if trivial or not candidate or (candidate, gold) in seen:
            continue
        seen.add((candidate, gold))
        line = {"kind": kind, "candidate": candidate, "gold": gold, "math_verify": judge(candidate, gold)}
        print(json.dumps(line), flush=True)


main()
