//! Grading against gold answers: themselves, their rewritings, each other; and against hostile input.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tpv_core::grade::{EqualBy, Found, Side, Verdict, Why, extract_answer, grade};

const SAMPLE: &str = include_str!("grading/gold_sample.txt");

/// The lines of a data set, where it is at hand.
fn data_set(name: &str) -> Option<Vec<serde_json::Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    let Ok(text) = fs::read_to_string(&path) else {
        eprintln!("no {}: tested without it", path.display());
        return None;
    };
    Some(text.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect())
}

fn field<'a>(problem: &'a serde_json::Value, name: &str) -> &'a str {
    problem[name].as_str().expect("a text field")
}

/// MATH-500's answers where the data set is at hand, else a sample of them.
fn gold_answers() -> Vec<String> {
    match data_set("math500.jsonl") {
        Some(problems) => problems.iter().map(|problem| field(problem, "answer").to_owned()).collect(),
        None => SAMPLE.lines().map(str::to_owned).collect(),
    }
}

fn assert_equal(candidate: &str, gold: &str) {
    let verdict = grade(candidate, gold);
    assert!(verdict.is_equal(), "{candidate:?} against {gold:?}: {verdict}");
    assert_eq!(verdict, grade(gold, candidate), "not symmetric: {candidate:?}, {gold:?}");
}

fn assert_different(candidate: &str, gold: &str) {
    assert_eq!(grade(candidate, gold), Verdict::Different, "{candidate:?} against {gold:?}");
    assert_eq!(grade(gold, candidate), Verdict::Different, "{gold:?} against {candidate:?}");
}

/// Other ways to write the same answer.
fn rewritings(gold: &str) -> Vec<String> {
    let mut all = vec![
        format!("${gold}$"),
        format!("\\( {gold} \\)"),
        format!("\\boxed{{{gold}}}"),
        format!("  {gold}."),
        format!("\\displaystyle {gold}"),
        gold.replace("\\dfrac", "\\frac").replace("\\frac", "\\tfrac"),
        gold.replace("\\dfrac", "\\frac").replace("\\frac", "\\dfrac"),
        gold.replace("\\left", "").replace("\\right", ""),
        gold.replace(' ', "  "),
        format!("\\! {gold} \\;"),
        gold.replace("pmatrix", "bmatrix"),
        gold.replace("\\pi", "π").replace('-', "−"),
        gold.replace(" \\cup ", "\\cup").replace("\\infty", "∞"),
        gold.replace("^\\circ", "^{\\circ}"),
        gold.replace("^\\circ", "°"),
        gold.replace("^\\circ", " degrees"),
    ];
    if !gold.contains("\\left") && !gold.contains("\\text") {
        all.push(gold.replace('(', "\\left(").replace(')', "\\right)"));
    }
    if let Some((above, below)) = plain_fraction(gold) {
        all.push(format!("{above}/{below}"));
        all.push(format!("\\frac{{{}}}{{{}}}", 3 * above, 3 * below));
        all.extend(exact_decimal(above, below));
    }
    if let Ok(whole) = gold.parse::<i64>() {
        all.extend(whole_number_rewritings(whole));
    }
    all
}

fn whole_number_rewritings(whole: i64) -> Vec<String> {
    vec![
        format!("{whole}.0"),
        format!("x = {whole}"),
        format!("\\frac{{{}}}{{7}}", 7 * whole),
        format!("{whole} \\text{{ units}}"),
        format!("{whole}\\text{{ cm}}^2"),
        format!("\\${whole}"),
        format!("{}+{}", whole - 9, 9),
        format!("\\sqrt[3]{{{}}}", i128::from(whole).pow(3)),
    ]
}

/// `\frac{a}{b}` with whole numbers.
fn plain_fraction(gold: &str) -> Option<(i64, i64)> {
    let (minus, rest) = gold.strip_prefix('-').map_or((1, gold), |rest| (-1, rest));
    let rest = rest.strip_prefix("\\frac{").or_else(|| rest.strip_prefix("\\dfrac{"))?;
    let (above, below) = rest.strip_suffix('}')?.split_once("}{")?;
    Some((minus * above.parse::<i64>().ok()?, below.parse().ok()?))
}

/// The decimal that equals a fraction, where it ends.
fn exact_decimal(above: i64, below: i64) -> Option<String> {
    let digits = (1..12).find(|digits| (above * 10i64.pow(*digits)) % below == 0)? as usize;
    Some(format!("{:.*}", digits, above as f64 / below as f64))
}

#[test]
fn every_gold_answer_equals_itself_and_its_rewritings() {
    for gold in gold_answers() {
        assert_equal(&gold, &gold);
        for rewriting in rewritings(&gold) {
            assert_equal(&rewriting, &gold);
        }
    }
}

#[test]
fn no_gold_answer_equals_the_next_problems_answer() {
    let gold = gold_answers();
    let same = gold.iter().zip(gold.iter().cycle().skip(1)).filter(|(a, b)| grade(a, b).is_equal());
    let same: Vec<_> = same.map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let truly_equal = [("5", "x=5"), ("7", "7"), ("3", "3")];
    assert!(same.iter().all(|pair| truly_equal.contains(pair)), "{same:?}");
}

#[test]
fn numbers() {
    for (candidate, gold) in [
        ("0.5", "\\frac12"),
        ("1,000", "1000"),
        ("1{,}000{,}000", "1000000"),
        ("137\\frac12", "137.5"),
        ("137 1/2", "\\frac{275}{2}"),
        ("2\\frac{3}{2}", "3"),
        ("\\sqrt{12}", "2\\sqrt3"),
        ("e^{i\\pi}", "-1"),
        ("\\sin 30^\\circ", "1/2"),
        ("\\log_2 8", "3"),
        ("\\sqrt[3]{-8}", "-2"),
        ("\\binom{5}{2}", "5!/12"),
        ("0.\\overline{3}", "\\frac13"),
        ("0.1\\overline{6}", "\\frac16"),
        ("6.72 \\times 10^{-5}", ".0000672"),
        ("2 + 3i", "3i+2"),
        ("3:4", "\\frac{6}{8}"),
        ("5 + -3 - -1", "3"),
        ("6.72e-5", ".0000672"),
        ("10\\,000", "10 000"),
        ("= 1.5E3", "1500"),
        ("\\sin^{-1} 1", "\\frac{\\pi}{2}"),
        ("2\\mathrm{e}", "2e"),
        ("\\operatorname{lcm}(4, 6)", "12"),
        ("2^{100}", "1267650600228229401496703205376"),
    ] {
        assert_equal(candidate, gold);
    }
}

#[test]
fn near_misses_differ() {
    for (candidate, gold) in [
        ("6+5i", "6-5i"),
        ("0.33", "\\frac13"),
        ("0.333334", "\\frac13"),
        ("100!+1", "100!"),
        ("2^{100}", "1267650600228229401496703205375"),
        ("(5,3)", "(3,5)"),
        ("[2,4)", "(2,4)"),
        ("-\\infty", "\\infty"),
        ("p-q", "q-p"),
        ("52_8", "52_9"),
        ("52", "52_8"),
        ("(C) 12 cm", "B"),
        ("-x \\in [-2,7]", "x \\in [-2,7]"),
        ("[6,31,-1)", "(6,31,-1)"),
        ("5m", "5n"),
        ("0<(y-2)^{2}<25", "0<(y+2)^{2}<25"),
        ("4\\text{ daps}=7\\text{ yaps}", "-4\\text{ daps}=7\\text{ yaps}"),
        ("AB + B = 12", "AB - B = 12"),
        ("864 \\text{ cm}^2", "864 \\text{ inches}^2"),
        ("x^{1000}", "x^{1001}"),
        ("\\text{odd}", "\\text{even}"),
        ("x=5", "y=5"),
        ("y=2x+3", "y=2x-3"),
        ("\\{1,2,3\\}", "\\{1,2\\}"),
        ("1 \\pm \\sqrt{19}", "1 \\pm \\sqrt{17}"),
        ("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "\\begin{pmatrix} 1 & 3 \\\\ 2 & 4 \\end{pmatrix}"),
    ] {
        assert_different(candidate, gold);
    }
}

#[test]
fn units_percent_and_degrees() {
    for (candidate, gold) in [
        ("50\\%", "0.5"),
        ("50\\%", "50"),
        ("90^\\circ", "\\frac{\\pi}{2}"),
        ("90", "90 degrees"),
        ("864 square inches", "864 \\mbox{ inches}^2"),
        ("18.9 dollars", "\\$18.90"),
        ("18 eggs per day", "18"),
        ("5\\text{ m}", "5"),
        ("5 m", "5"),
        ("5th", "5"),
    ] {
        assert_equal(candidate, gold);
    }
}

#[test]
fn structures() {
    for (candidate, gold) in [
        ("1-\\sqrt{19}, 1+\\sqrt{19}", "1 \\pm \\sqrt{19}"),
        ("\\{-2,1+\\sqrt5,1-\\sqrt5\\}", "\\{1\\pm\\sqrt{5},-2\\}"),
        ("-2 \\le x \\le 7", "x \\in [-2,7]"),
        ("x<2 \\text{ or } x>3", "(-\\infty, 2) \\cup (3, \\infty)"),
        ("(3,\\infty)\\cup(-\\infty,2)", "(-\\infty, 2) \\cup (3, \\infty)"),
        ("(-18,-49,96)", "\\begin{pmatrix} -18 \\\\ -49 \\\\ 96 \\end{pmatrix}"),
        ("x=3, x=5 and x=7", "7,5,3"),
        ("\\mathbb{R}", "(-\\infty,\\infty)"),
        ("[-\\infty, 0]", "(-\\infty,0]"),
        ("C", "\\text{(C)}"),
        ("(C) 12 cm", "C"),
        ("B(6, 8)", "(6,8)"),
        ("\\angle ABC = 45^\\circ", "45"),
        ("n \\equiv 2 \\pmod{7}", "2"),
        ("4^{\\text{th}}", "4"),
        ("C. 12 cm", "\\text{(C)}"),
        ("**(C)**", "C"),
        ("All real numbers", "\\mathbb{R}"),
        ("Monday", "\\text{Monday}"),
        ("No", "\\text{no}"),
        ("x=2, y=3", "(2,3)"),
    ] {
        assert_equal(candidate, gold);
    }
}

fn assert_all(equal: &[(&str, &str)], different: &[(&str, &str)]) {
    equal.iter().for_each(|(candidate, gold)| assert_equal(candidate, gold));
    different.iter().for_each(|(candidate, gold)| assert_different(candidate, gold));
}

#[test]
fn values_with_names_are_compared_by_name() {
    let equal = [
        ("y=2, x=1", "(1,2)"),
        ("z=3, x=1, y=2", "(1,2,3)"),
        ("x_2=3, x_1=4", "(4,3)"),
        ("m=2, b=3", "(2,3)"),
        ("(b,a)=(6,5)", "(a,b)=(5,6)"),
        ("(b,a)=(6,5)", "a=5, b=6"),
        ("(b,a)=(6,5)", "(5,6)"),
        ("\\begin{cases} y=2 \\\\ x=1 \\end{cases}", "(1,2)"),
        ("y=2, x=1", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
        ("a=5, b=6", "6, 5"),
        ("x=3, x=5", "5, 3"),
        ("(x,y)=(1,2), (3,4)", "(3,4), (1,2)"),
    ];
    let different = [
        ("y=1, x=2", "(1,2)"),
        ("(b,a)=(5,6)", "(a,b)=(5,6)"),
        ("(b,a)=(6,5)", "a=6, b=5"),
        ("a=5, b=6", "a=6, b=5"),
        ("x=1, y=2", "a=1, b=2"),
    ];
    assert_all(&equal, &different);
}

#[test]
fn intervals_belong_to_their_variable() {
    let equal = [
        ("x<2", "(-\\infty,2)"),
        ("2>x", "x<2"),
        ("]1,2[", "(1,2)"),
        ("[1,2[ \\cup ]3,4]", "[1,2) \\cup (3,4]"),
        ("]-\\infty,2]", "x \\le 2"),
    ];
    let different = [("x<2", "y<2"), ("1<x<2", "1<y<2"), ("x<2 \\text{ or } x>3", "y<2 \\text{ or } y>3")];
    assert_all(&equal, &different);
}

#[test]
fn words_multiply_numbers() {
    let equal = [
        ("3 \\text{ thousand}", "3000"),
        ("\\$5\\text{ million}", "5{,}000{,}000"),
        ("3 hundred thousand dollars", "300,000"),
        ("2 \\text{ dozen eggs}", "24"),
        ("3 \\text{ hundredths}", "0.03"),
        ("5 hundred-dollar bills", "5"),
    ];
    let different =
        [("3 thousand", "3"), ("5 \\text{ million}", "5"), ("2 dozen", "2"), ("3 \\text{ hundredths}", "3")];
    assert_all(&equal, &different);
}

#[test]
fn known_units_that_differ_make_different_answers() {
    let equal = [
        ("\\$5", "5\\text{ dollars}"),
        ("18 USD", "\\$18"),
        ("USD 18", "18"),
        ("$5$", "5 cents"),
        ("18 dollars per day", "\\$18"),
        ("$18/hour", "18"),
        ("5 square cm", "5\\text{ cm}^2"),
        ("5 sq. cm", "5 square centimeters"),
        ("5\\text{ cubic meters}", "5 m^3"),
        ("100^\\circ C", "100"),
        ("100 degrees Celsius", "100^\\circ\\text{C}"),
        ("100^\\circ C", "100^\\circ"),
        ("60 mph", "60 miles per hour"),
        ("15 \\text{ min}", "15 minutes"),
        ("54 a month", "54"),
        ("280 L of water", "280"),
        ("22 CDs", "22"),
    ];
    let different = [
        ("\\$5", "5\\text{ cents}"),
        ("$5", "5 cents"),
        ("5 square cm", "5 cm"),
        ("5 m^2", "5\\text{ cubic meters}"),
        ("100^\\circ\\text{C}", "100^\\circ\\text{F}"),
        ("60 mph", "60 km/h"),
        ("60 km/h", "60 km/s"),
        ("\\text{3 hours}", "3 minutes"),
    ];
    assert_all(&equal, &different);
}

#[test]
fn numbers_within_text() {
    let equal = [
        ("\\text{18 dollars}", "18"),
        ("\\text{3 hours}", "3"),
        ("\\text{\\$18}", "18"),
        ("\\text{3 and 4}", "4, 3"),
        ("\\text{\\frac{14}{3}}", "\\frac{14}{3}"),
        ("5 (five)", "5"),
        ("20 cups (for the final meal)", "20"),
        ("12\\text{ (mod } 17)", "12"),
        ("12\\frac12\\%", "12.5\\%"),
        ("12\\frac12^\\circ", "12.5"),
        ("\\text{It is increasing}", "It is increasing"),
    ];
    let different = [
        ("\\text{June 20}", "20"),
        ("\\text{June 20}", "\\text{June 21}"),
        ("\\text{3:00 PM}", "\\text{3:00 AM}"),
        ("Ben ran 2.5 km", "Ben ran 25 km"),
        ("Ben has -5 coins", "Ben has 5 coins"),
    ];
    assert_all(&equal, &different);
}

#[test]
fn one_value_written_in_several_ways() {
    let equal = [
        ("\\frac12 \\text{ or } 0.5", "\\frac12"),
        ("3/4 or 75%", "0.75"),
        ("\\frac13 \\approx 0.333", "\\frac13"),
        ("\\frac13 \\approx 0.333", "0.333"),
        ("x = 55.55 ≈ 56", "56"),
        ("0.333...", "1/3"),
        ("0.1666\\ldots", "1/6"),
        ("0.142857142857...", "\\frac17"),
        ("\\{1,1,2\\}", "\\{1,2\\}"),
        ("\\{1,1\\}", "1"),
    ];
    let different = [
        ("\\frac12 \\text{ or } 0.6", "\\frac12"),
        ("12 \\text{ or } 13", "12"),
        ("5,5", "5"),
        ("1,1,2", "1,2"),
        ("5 \\approx 7", "5"),
        ("3.14...", "\\pi"),
        ("0.333", "1/3"),
        ("\\{1,1\\}", "2"),
    ];
    assert_all(&equal, &different);
}

#[test]
fn letters_of_options() {
    let equal = [
        ("a", "A"),
        ("(e)", "E"),
        ("(A) 12", "12"),
        ("B. 12", "12"),
        ("(A) 12", "A"),
        ("Option B", "\\text{(B)}"),
        ("(a)(b)", "ab"),
    ];
    let different = [("(A) 12", "13"), ("b", "A"), ("e", "E"), ("i", "I"), ("(a)(b)", "a")];
    assert_all(&equal, &different);
}

#[test]
fn ratios_matrices_and_environments() {
    let equal = [
        ("1:2:3", "2:4:6"),
        ("2x:3y", "\\frac{2x}{3y}"),
        ("\\begin{aligned} 42 \\end{aligned}", "42"),
        ("\\begin{aligned} x &= 42 \\end{aligned}", "42"),
        ("\\frac12\\begin{pmatrix} 2 \\\\ 4 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
        ("-\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "(-1,-2)"),
        ("\\text{no solution}", "\\emptyset"),
        ("|AB| = 5", "5"),
        ("\\textcolor{red}{42}", "42"),
    ];
    let different = [
        ("1:2:3", "3:2:1"),
        ("1:2:3", "1:2"),
        ("-\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "(1,2)"),
        ("\\text{no solution}", "0"),
        ("|x| = 5", "5"),
    ];
    assert_all(&equal, &different);
}

#[test]
fn algebra() {
    for (candidate, gold) in [
        ("\\frac{11}{20}+\\frac{9a}{20}", "\\frac{11+9a}{20}"),
        ("(x+1)^2", "x^2+2x+1"),
        ("1/\\tan x", "\\cot x"),
        ("y-2x-3=0", "y = 2x + 3"),
        ("-5x+7y-11z=4", "5x - 7y + 11z + 4 = 0"),
        ("f(x)=2x", "2x"),
        ("3 n and 5", "5, n + 2n"),
        ("x^2+2bmx", "x(x+2mb)"),
        ("2+3=1+4=5", "5"),
        ("3x = 180 \\Rightarrow x = 60", "60"),
        ("x^{999}x", "x^{1000}"),
        ("\\frac{x^2-1}{x-1}", "x+1"),
    ] {
        assert_equal(candidate, gold);
    }
}

#[test]
fn the_verdict_names_its_argument() {
    let by = |candidate, gold| match grade(candidate, gold) {
        Verdict::Equal { by } => by,
        other => panic!("{candidate:?} against {gold:?}: {other}"),
    };
    assert_eq!(by("\\dfrac{1}{2}", "\\frac{1}{2}"), EqualBy::Text);
    assert_eq!(by("0.5", "\\frac{1}{2}"), EqualBy::Number);
    assert_eq!(by("\\sqrt{8}", "2\\sqrt{2}"), EqualBy::Numeric);
    assert_eq!(by("x+x", "2x"), EqualBy::Algebra);
    assert_eq!(by("5 cm", "5"), EqualBy::Unit);
    assert_eq!(by("0.333333", "\\frac13"), EqualBy::Rounding);
    let empty = Verdict::Unparsed { which: Side::Candidate, why: Why::Empty };
    assert_eq!(grade("", "5"), empty);
    assert_eq!(serde_json::to_string(&empty).unwrap(), r#"{"verdict":"unparsed","which":"candidate","why":"empty"}"#);
}

#[test]
fn hostile_input_is_answered_at_once() {
    let start = Instant::now();
    let deep = |c: &str, times: usize| c.repeat(times);
    for text in [
        deep("{", 1_000_000),
        deep("{", 4_000),
        deep("(", 4_000),
        deep("-", 4_000),
        format!("1{}", deep("!", 4_000)),
        deep("\\frac", 800),
        deep("\\sqrt", 800),
        deep("x^", 2_000),
        deep("|", 4_000),
        deep("1,", 2_000),
        deep("\\begin{matrix}", 250),
        deep("2^{", 1_300) + "2",
        "9^{9^{9^9}}".into(),
        "(9^{600})!".into(),
        "\\binom{10^{100}}{1999}".into(),
        deep("(x+1/7)^{50}", 300),
        deep("9", 4_000),
        deep("9^{600}*", 500) + "9",
        deep("\\text{\\frac", 300),
        deep("\\text{a ", 600) + &deep("}", 600),
        "2".to_owned() + &deep(" million", 500),
        deep("1:", 1_300) + "1",
        deep("1 or ", 800) + "2",
        (0..700).map(|at| format!("x_{at}=1,")).collect(),
        format!("\\{{{}\\}}", (0..1_000).map(|at| at.to_string()).collect::<Vec<_>>().join(",")),
        format!("({})\\begin{{pmatrix}}{}\\end{{pmatrix}}", deep("x+", 480) + "x", deep("1&", 450) + "1"),
        deep("2{", 38) + "\\begin{matrix}1&2\\end{matrix}" + &deep("}", 38),
        "5 ".to_owned() + &deep(" (a", 1_000),
        deep("]1,2[", 500),
        "0.".to_owned() + &deep("12", 190) + "...",
    ] {
        let verdict = grade(&text, "17");
        assert!(!verdict.is_equal(), "{}..: {verdict}", &text[..10]);
        grade(&text, &format!("{text} "));
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn hostile_announcements_are_answered_at_once() {
    let start = Instant::now();
    let million = |piece: &str| piece.repeat(1_000_000 / piece.len());
    for piece in [
        "$", "$ ", "\\(", "\\[ ", "**", "so ", "1. ", "\n- ", " (abc", "a: ", ". ", "! A", "=", "1, ", "the 1 ",
        " – abc", "answer: ", "$1$, ",
    ] {
        extract_answer(&format!("the answer is {}", million(piece)));
        extract_answer(&format!("The answer is that {}", million(piece)));
        extract_answer(&format!("{} the answer is 5", million(piece)));
    }
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn extraction_takes_the_last_box_that_closes() {
    let found = |text: &str| extract_answer(text).map(|answer| (answer.text, answer.found));
    let boxed = |text: &str| Some((text.to_owned(), Found::Boxed));
    assert_eq!(found("\\boxed{1} then \\boxed{\\frac{2}{3}}."), boxed("\\frac{2}{3}"));
    assert_eq!(found("\\boxed{1} then \\boxed{2"), boxed("1"));
    assert_eq!(found("\\boxed{\\{1, 2\\}}"), boxed("\\{1, 2\\}"));
    assert_eq!(found("\\fbox{7} and \\boxed{}"), boxed("7"));
    assert_eq!(found("\\boxed{1}</think>It is \\boxed{2}"), boxed("2"));
    assert_eq!(found("<think>\\boxed{1}"), None);
    assert_eq!(found(&"\\boxed{".repeat(150_000)), None);
}

#[test]
fn extraction_falls_back_to_the_sentence_and_the_last_number() {
    let found = |text: &str| extract_answer(text).map(|answer| (answer.text, answer.found));
    let is = |text: &str| Some((text.to_owned(), Found::AnswerIs));
    let last = |text: &str| Some((text.to_owned(), Found::LastNumber));
    assert_eq!(found("The answer is $\\frac{1}{2}$."), is("\\frac{1}{2}"));
    assert_eq!(found("The answer is 3.5. Done."), is("3.5"));
    assert_eq!(found("**Answer:** $18 per day."), is("$18 per day"));
    assert_eq!(found("2 + 3 = 5\n#### 1,234"), is("1,234"));
    assert_eq!(found("So she has 3 left, that is $1,250.50."), last("1,250.50"));
    assert_eq!(found("It is -5, not 5 but −7."), last("−7"));
    assert_eq!(found("About 3/4 of 8-5, or 60%."), last("60%"));
    assert_eq!(found("which makes $-\\frac{3}{14}$"), last("-\\frac{3}{14}"));
    assert_eq!(found("no number"), None);
}

/// What is taken from an announced answer.
fn announced(text: &str) -> String {
    let answer = extract_answer(text).unwrap_or_else(|| panic!("nothing in {text:?}"));
    assert_eq!(answer.found, Found::AnswerIs, "{text:?}");
    answer.text
}

#[test]
fn an_announced_sentence_is_searched_for_its_answer() {
    for (text, answer) in [
        ("Answer: It takes 160 minutes to download the file.", "160"),
        ("**Answer:** Janet makes $18 per day.", "18"),
        ("### Final Answer:\nEliza earned 400 + 60 = $460 this week, with 5 hours of overtime.", "460"),
        ("Final Answer: The total cost is 64 dollars.", "64"),
        ("**Final Answer:** Kylar needs to pay **$64** for the 16 glasses.", "$64"),
        ("The answer is that she needs 20 cups.", "20"),
        ("Answer: Mr. Tan is left with $400 000 - $282 000 = $118 000.", "118 000"),
        ("Answer: The value of $x$ is $\\frac{3}{4}$.", "\\frac{3}{4}"),
        ("Answer: There are $500 + 1 = 501$ values of $k$.", "500 + 1 = 501"),
        ("Answer: This happens at the point (3, 4).", "(3, 4)"),
        ("Answer: He was there for three days, so on average he spent 9 / 3 = 3 hours.", "3 hours"),
        ("Answer: We get 3\\sqrt{13}.", "3\\sqrt{13}"),
        ("Total answer: Total: 20 apples", "20 apples"),
        ("Answer: Evelyn", "Evelyn"),
        ("Answer: June 20", "June 20"),
        ("The answer is at least 5.", "at least 5"),
        ("The answer is all real numbers except 2.", "all real numbers except 2"),
        ("The answer is f(x) = 2x + 3.", "f(x) = 2x + 3"),
        ("The answer is x = 3 or x = 4.", "x = 3 or x = 4"),
        ("The answer is 5 times as many as 3.", "5"),
    ] {
        assert_eq!(announced(text), answer, "{text:?}");
    }
}

#[test]
fn words_around_an_announced_answer_are_left_out() {
    for (text, answer) in [
        ("The answer is therefore 42.", "42"),
        ("So the answer is thus $42$.", "42"),
        ("The correct answer is therefore: **A**", "A"),
        ("The answer is approximately 3.14.", "3.14"),
        ("The answer is, then, exactly 20.", "20"),
        ("The correct answer is option B.", "B"),
        ("The answer is Yes, it converges.", "Yes"),
        ("The answer is no solution.", "no solution"),
        ("The answer is 5 (five).", "5"),
        ("Answer: 20 cups (for the final meal)", "20 cups"),
        ("The answer is 5 (x + 1).", "5 (x + 1)"),
        ("The answer is 3, i.e. three bolts.", "3"),
        ("The answer is 3 – three bolts.", "3"),
        ("The answer is 5 - x.", "5 - x"),
        ("The answer is 5, not 6.", "5"),
        ("The answer is 20!", "20"),
        ("The answer is 20! So we are done.", "20"),
        ("The answer is 20!.", "20!"),
        ("The answer is 20!, which is large.", "20!"),
        ("The answer is n!", "n!"),
        ("The answer is (n+1)!", "(n+1)!"),
        ("The answer is 18 eggs!", "18 eggs"),
        ("The answer is $20!$", "20!"),
        ("The answer is:\n\n- 18 eggs", "18 eggs"),
        ("The answer is - 18.", "- 18"),
        ("The answer is:\n1. 18", "18"),
        ("The answer is:\n1", "1"),
        ("The answer is **64** dollars.", "64"),
        ("**The answer is 64 dollars**", "64 dollars"),
        ("The answer is `6 - 5i`.", "6 - 5i"),
        ("The answers are 3 and 4.", "3 and 4"),
        ("The answer is $x=2$ or $x=3$.", "$x=2$ or $x=3$"),
        ("The answer is $5$ and $x$ is free.", "5"),
        ("The answer is 18; she sells 9 eggs.", "18"),
        ("The answer is x = 3, x = 4.", "x = 3, x = 4"),
    ] {
        assert_eq!(announced(text), answer, "{text:?}");
    }
}

#[test]
fn prices_are_no_formulas() {
    for (text, answer) in [
        ("The answer is $18, since she sells 9 eggs at $2 each.", "$18"),
        ("The answer is $18 (9 eggs at $2 each).", "18"),
        ("The answer is $\\$18$.", "\\$18"),
        ("**Answer: $\\$460$**", "\\$460"),
        ("The answer is $32,\\!348$ or so.", "32,\\!348"),
        ("The answer is $ x + 1 $ dollars.", "x + 1"),
        ("The answer is $64$ dollars.", "64"),
        ("The answer is\n$$\n\\frac{1}{2}\n$$", "\\frac{1}{2}"),
    ] {
        assert_eq!(announced(text), answer, "{text:?}");
    }
}

#[test]
fn the_last_number_may_be_any_fraction() {
    for fraction in ["\\dfrac{3}{4}", "-\\tfrac{3}{4}", "\\cfrac{3}{14}", "-\\frac{13}{4}"] {
        let answer = extract_answer(&format!("So the value is ${fraction}$.")).expect("there is a number");
        assert_eq!((answer.text.as_str(), answer.found), (fraction, Found::LastNumber));
    }
    assert_eq!(extract_answer("it is $3-\\frac{1}{2}$").map(|answer| answer.text), Some("\\frac{1}{2}".into()));
}

/// Every gold answer of MATH-500, as models announce it.
#[test]
fn announced_gold_answers_are_found_again() {
    let frames: &[fn(&str) -> String] = &[
        |gold| format!("So\n\n\\boxed{{{gold}}}"),
        |gold| format!("**Final Answer**\n\n\\[\n\\boxed{{{gold}}}\n\\]"),
        |gold| format!("\\boxed{{\\displaystyle {gold}}}"),
        |gold| format!("\\boxed{{\\text{{{gold}}}}}"),
        |gold| format!("The final answer is ${gold}$. I hope it is correct."),
        |gold| format!("**The final answer is** \\({gold}\\)."),
        |gold| format!("The answer is\n\\[\n{gold}\n\\]"),
        |gold| format!("The answer is {gold}."),
        |gold| format!("**Answer:** ${gold}$"),
        |gold| format!("The correct answer is therefore: **{gold}**"),
        |gold| format!("the answer is\n\n$${gold}.$$"),
    ];
    for gold in gold_answers() {
        for frame in frames {
            let text = frame(&gold);
            let answer = extract_answer(&text).unwrap_or_else(|| panic!("nothing in {text:?}"));
            assert_equal(&answer.text, &gold);
        }
    }
}

/// How many of the last sentences of GSM8K's reference solutions give the gold answer, said as the answer.
#[test]
fn last_sentences_of_solutions_give_their_answers() {
    let Some(problems) = data_set("gsm8k_test.jsonl") else { return };
    let right = |before: &str| {
        let is_right = |problem: &&serde_json::Value| {
            let (solution, gold) = field(problem, "answer").split_once("####").expect("an answer after ####");
            let sentence = without_calculator_marks(solution.trim().lines().next_back().unwrap_or_default());
            let text = format!("First we add, then we multiply.\n\n{before}{sentence}");
            extract_answer(&text).is_some_and(|answer| grade(&answer.text, gold).is_equal())
        };
        problems.iter().filter(is_right).count()
    };
    assert_eq!(right(""), 1282);
    for before in ["**Answer:** ", "### Final Answer:\n", "The answer is ", "The answer is therefore "] {
        assert_eq!(right(before), 1303, "{before:?}");
    }
}

/// GSM8K's `<<2*3=6>>` taken out.
fn without_calculator_marks(sentence: &str) -> String {
    let mut parts = sentence.split("<<");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once(">>").map_or(part, |(_, rest)| rest))
}

#[test]
fn extraction_finds_the_answers_of_the_data_sets_own_solutions() {
    let right = |solution: &str, gold: &str| {
        let answer = extract_answer(solution).expect("every solution has an answer");
        assert_equal(&answer.text, gold);
        answer.found
    };
    for problem in data_set("math500.jsonl").unwrap_or_default() {
        assert_eq!(right(field(&problem, "solution"), field(&problem, "answer")), Found::Boxed);
    }
    for problem in data_set("gsm8k_test.jsonl").unwrap_or_default() {
        let solution = field(&problem, "answer");
        let (_, gold) = solution.split_once("####").expect("an answer after ####");
        assert_eq!(right(solution, gold), Found::AnswerIs);
    }
}

/// One line of `grading/pairs.jsonl`, which `grading/make_pairs.py` makes.
#[derive(serde::Deserialize)]
struct Pair {
    candidate: String,
    gold: String,
    math_verify: bool,
}

/// One line of `grading/disagreements.jsonl`.
#[derive(serde::Deserialize)]
struct Disagreement {
    candidate: String,
    gold: String,
    reason: String,
}

fn json_lines<T: serde::de::DeserializeOwned>(text: &str) -> Vec<T> {
    text.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

#[test]
fn agrees_with_math_verify_but_for_the_listed_pairs() {
    let pairs: Vec<Pair> = json_lines(include_str!("grading/pairs.jsonl"));
    let listed: Vec<Disagreement> = json_lines(include_str!("grading/disagreements.jsonl"));
    let table = include_str!("../../../docs/GRADING.md");
    for pair in &listed {
        let row = format!("| `{}` | `{}` |", pair.candidate, pair.gold);
        assert!(
            table.lines().any(|line| line.starts_with(&row) && line.contains(&pair.reason)),
            "docs/GRADING.md lacks {row}"
        );
    }
    let listed: BTreeSet<(&str, &str)> = listed.iter().map(|pair| (&*pair.candidate, &*pair.gold)).collect();
    let differs = |pair: &&Pair| grade(&pair.candidate, &pair.gold).is_equal() != pair.math_verify;
    let found: BTreeSet<(&str, &str)> =
        pairs.iter().filter(differs).map(|pair| (&*pair.candidate, &*pair.gold)).collect();
    assert_eq!(found, listed);
    let agreement = 1.0 - found.len() as f64 / pairs.len() as f64;
    assert!(agreement >= 0.99, "{agreement} of {} pairs", pairs.len());
}

#[test]
fn no_pair_depends_on_the_order_of_its_two_answers() {
    for pair in json_lines::<Pair>(include_str!("grading/pairs.jsonl")) {
        let (one, other) = (grade(&pair.candidate, &pair.gold), grade(&pair.gold, &pair.candidate));
        assert_eq!(one.is_equal(), other.is_equal(), "{:?}, {:?}", pair.candidate, pair.gold);
    }
}

/// A sign that stays, within brackets or a matrix, once asked for itself without end.
#[test]
fn signs_within_brackets_end() {
    for text in [
        r"F(\pm 5, 0)",
        r"(\pm 2, 0) \text{ units}",
        r"\{\pm 5\} \text{ units}",
        r"\{-2, \pm 3\} \text{, so three roots}",
        r"x \in \{1\pm 5\} \text{ cm}",
        r"\{\pm 1\} \times \{\pm 2\}",
        r"\{\pm 2\} + 1",
        r"3\begin{pmatrix} \pm 1 \\ 2\end{pmatrix}",
        r"\begin{pmatrix}\pm 1\\2\end{pmatrix} \text{ cm}",
        r"2\sqrt[\pm 3]{8}",
        r"\{1\pm\sqrt{5},-2\} \text{ units}",
        "the foci F(±5, 0)",
    ] {
        assert!(!grade(text, "7").is_equal() && !grade("7", text).is_equal(), "{text}");
    }
}

/// What a sentence says that is no single number is not cut to one.
#[test]
fn announced_prose_keeps_what_belongs_together() {
    let found = |text: &str| extract_answer(text).map(|it| it.text.to_owned()).unwrap_or_default();
    for (text, gold) in [
        ("The answer is that x = 2 or x = 3.", "2,3"),
        ("The answer is at x = 3 and x = 4.", "3,4"),
        ("The answer is the pair x = 2, y = 3.", "(2,3)"),
        ("Answer:\n- 42", "-42"),
        ("Answer:\n- 18 eggs", "18"),
        ("Answer: 2½", "2.5"),
        ("The answer is 2½ cups.", "\\frac{5}{2}"),
        ("The answer is that she needs 2½ cups.", "2.5"),
        ("Answer: 3¾", "3.75"),
        ("Answer: 2⅒", "2.1"),
        ("Answer: It takes 5 + 3 = 8 hours.", "8"),
    ] {
        assert!(grade(&found(text), gold).is_equal(), "{text}: {}", found(text));
    }
    for (text, wrong) in [
        ("The answer is that x = 2 or x = 3.", "3"),
        ("Answer: 2½", "2"),
        ("Answer: 5‰", "5"),
        ("Answer: cannot be determined from the 3 facts.", "3"),
        ("Answer: Not enough information (we need 2 more equations).", "2"),
        ("Answer: It would take between 5 and 6 hours.", "6"),
    ] {
        assert!(!grade(&found(text), wrong).is_equal(), "{text}: {}", found(text));
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(a in any::<String>(), b in any::<String>()) {
        extract_answer(&a);
        prop_assert_eq!(grade(&a, &b).is_equal(), grade(&b, &a).is_equal());
    }

    #[test]
    fn formula_like_text_never_panics(parts in prop::collection::vec(prop::sample::select(PIECES), 0..24), cut in 0..24usize) {
        let (a, b) = (parts[..cut.min(parts.len())].concat(), parts[cut.min(parts.len())..].concat());
        extract_answer(&a);
        prop_assert_eq!(grade(&a, &b).is_equal(), grade(&b, &a).is_equal());
        if !a.trim().is_empty() && grade(&a, "0") == Verdict::Different {
            prop_assert!(grade(&a, &format!(" {a} ")).is_equal(), "{:?}", a);
        }
    }

    #[test]
    fn fractions_equal_their_multiples(above in -999i64..999, below in 1i64..999, factor in 1i64..99) {
        let gold = format!("\\frac{{{above}}}{{{below}}}");
        let (multiple, near_miss) = (format!("{}/{}", above * factor, below * factor), format!("{}/{}", above * factor + 1, below * factor));
        prop_assert!(grade(&multiple, &gold).is_equal());
        prop_assert_eq!(grade(&near_miss, &gold), Verdict::Different);
    }
}

const PIECES: &[&str] = &[
    "1",
    "2",
    "0",
    ".5",
    "12,345",
    "x",
    "y",
    "e",
    "i",
    "\\pi",
    "+",
    "-",
    "*",
    "/",
    "^",
    "^{",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "\\{",
    "\\}",
    "\\frac",
    "\\frac12",
    "\\sqrt",
    "\\sqrt[3]",
    "\\pm",
    "\\cup",
    "\\infty",
    ",",
    ";",
    "=",
    "<",
    "\\le",
    "\\in",
    "!",
    "%",
    "^\\circ",
    "_",
    "|",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "&",
    "\\\\",
    "\\text{cm}",
    "\\text{",
    "\\boxed{",
    "\\overline{3}",
    "\\log",
    "\\sin",
    " ",
    "\\left",
    "\\right",
    "\\!",
    "$",
    "answer is",
    "word",
    "\\binom",
    "\\approx",
    " or ",
    "\\$",
    " million",
    "\\text{3 or 4 eggs}",
    "...",
    ":",
    "`",
    "**",
    "]",
    "A",
    " (five)",
    " square cm",
    "USD",
    "\\begin{aligned}",
    "\\end{aligned}",
    "\n",
    "1. ",
    "The value is",
];
