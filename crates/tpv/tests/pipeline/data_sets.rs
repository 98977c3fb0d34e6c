//! Problems and models by name: from the cache, from a file, from a hub that answers on the loopback interface.

use crate::workplace::{THINKER_FILES, Workplace};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use tpv_data::trace::{ProblemRecord, TraceStore};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TINY: &str = "--generations_per_problem 1 --max_new_tokens 4";

fn record(place: &Workplace, folder: &str, problem: usize) -> ProblemRecord {
    TraceStore::open(&place.path(folder)).unwrap().record(problem).unwrap()
}

/// A file of the data sets that may lie beside the checkout.
fn shared(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.is_file() {
        eprintln!("skipped: {} is not there", path.display());
    }
    path.canonicalize().ok()
}

#[test]
fn math500_comes_from_the_cache() {
    let place = Workplace::new();
    let folder = "hf/hub/datasets--HuggingFaceH4--MATH-500";
    place.write(&format!("{folder}/refs/main"), COMMIT);
    let lines =
        "{\"problem\": \"What is $1+1$?\", \"answer\": \"2\"}\n{\"problem\": \"What is $2+2$?\", \"answer\": \"4\"}\n";
    place.write(&format!("{folder}/snapshots/{COMMIT}/test.jsonl"), lines);
    place
        .ok(&format!("generate --model thinker --start_problem_index 1 --end_problem_index 2 {TINY} --output_dir out"));
    let record = record(&place, "out", 1);
    assert_eq!((record.problem_text.as_str(), record.gold.as_deref()), ("What is $2+2$?", Some("4")));
    assert!(record.prompt.starts_with("What is $2+2$?\nPlease reason step by step"), "{}", record.prompt);
}

#[test]
fn the_published_math500_reads_as_a_file() {
    let Some(path) = shared("math500.jsonl") else { return };
    let place = Workplace::new();
    let line = format!("generate --model thinker --dataset {} {TINY} --output_dir", path.display());
    place.ok(&format!("{line} default --start_problem_index 499 --end_problem_index 500"));
    place.ok(&format!("{line} named --end_problem_index 1 --problem_field problem --answer_field answer"));
    assert_eq!(record(&place, "named", 0).gold.as_deref(), Some("\\left( 3, \\frac{\\pi}{2} \\right)"));
    place.refused(&format!("{line} out --end_problem_index 501"), &["beyond the 500 problems"]);
    place.refused(&format!("{line} out --end_problem_index 1 --problem_field task"), &["task", "--problem_field"]);
}

#[test]
fn the_published_gsm8k_reads_as_a_file() {
    let Some(path) = shared("gsm8k_train.jsonl") else { return };
    let place = Workplace::new();
    place.ok(&format!(
        "generate --model thinker --dataset {} --end_problem_index 1 {TINY} --output_dir out",
        path.display()
    ));
    let record = record(&place, "out", 0);
    assert!(record.problem_text.starts_with("Natalia sold clips"), "{}", record.problem_text);
    assert_eq!(record.gold.as_deref(), Some("72"));
}

/// Serves the thinker's files as the hub serves small files.
fn serve(stream: &mut TcpStream) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    while !lines.next()?.ok()?.is_empty() {}
    let mut words = first.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    let siblings: Vec<_> = THINKER_FILES.iter().map(|(name, _)| serde_json::json!({"rfilename": name})).collect();
    let listing = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
    let file = path.strip_prefix(&format!("/org/thinker/resolve/{COMMIT}/"));
    let file = file.and_then(|name| THINKER_FILES.iter().find(|(known, _)| *known == name));
    let (status, body, etag) = match file {
        _ if path == "/api/models/org/thinker/revision/main" => (200, listing.as_bytes(), String::new()),
        Some((name, content)) => (200, *content, format!("etag-of-{name}")),
        None => (404, &b""[..], String::new()),
    };
    let length = body.len();
    let head = format!("ETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Length: {length}\r\n");
    write!(stream, "HTTP/1.1 {status} Status\r\n{head}\r\n").ok()?;
    if method != "HEAD" {
        stream.write_all(body).ok()?;
    }
    Some(())
}

#[test]
fn a_model_comes_from_the_hub_and_then_from_the_cache() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || while serve(&mut stream).is_some() {});
        }
    });
    let place = Workplace::new();
    let line = format!("generate --model org/thinker --dataset thinker --end_problem_index 1 {TINY} --output_dir");
    let mut online = place.command();
    online.env("HF_ENDPOINT", &endpoint).env("HF_HUB_OFFLINE", "0").env("NO_PROXY", "127.0.0.1");
    let output = online.args(format!("{line} online").split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    place.ok(&format!("{line} offline"));
    assert_eq!(place.run_files("online"), place.run_files("offline"));
    assert!(place.text("online/run.json").contains(COMMIT));
    place.ok(&line.replace("org/thinker", "thinker").replace("--output_dir", "--output_dir bundled"));
    assert_eq!(record(&place, "bundled", 0).generations, record(&place, "online", 0).generations);
}
