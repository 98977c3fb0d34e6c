//! `tpv serve` as a process: it says where it listens, logs no prompts, and SIGTERM in mid-stream ends it in good order.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing fails")]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PROMPT: &str = "Ivy has 6 stamps. Day 1: finds 4. Day 2: sells 3. How many stamps does Ivy have now?";

/// A process that does not outlive its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

/// The server, its address, and the pipe of its stdout.
fn serve(home: &std::path::Path, args: &[&str]) -> (Server, String, BufReader<impl Read>) {
    let mut server = Command::new(env!("CARGO_BIN_EXE_tpv"))
        .args(["serve", "--port", "0", "--json"])
        .args(args)
        .env("TPV_HOME", home)
        .env_remove("TPV_API_KEY")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut events = BufReader::new(server.stdout.take().unwrap());
    let server = Server(server);
    let mut line = String::new();
    events.read_line(&mut line).unwrap();
    let event: Value = serde_json::from_str(&line).unwrap();
    (server, event["data"]["url"].as_str().unwrap().trim_start_matches("http://").to_owned(), events)
}

fn ask(address: &str) -> BufReader<TcpStream> {
    let body = json!({ "messages": [{ "role": "user", "content": PROMPT }], "stream": true, "seed": 7 }).to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let length = body.len();
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all((head + &body).as_bytes()).unwrap();
    BufReader::new(stream)
}

fn until_reasoning(stream: &mut BufReader<TcpStream>) {
    let mut line = String::new();
    while !line.contains("\"reasoning\"") {
        line.clear();
        assert!(stream.read_line(&mut line).unwrap() > 0, "the stream ended early");
    }
}

/// Sends SIGTERM so many times while a stream is under way; what the stream still says. Prompts are not logged.
fn terminated(times: usize, args: &[&str]) -> String {
    let home = tempfile::tempdir().unwrap();
    let (mut server, address, mut events) = serve(home.path(), args);
    let mut stream = ask(&address);
    until_reasoning(&mut stream);
    for number in 0..times {
        // Two signals at once may count as one.
        (0..3 * number).for_each(|_| until_reasoning(&mut stream));
        let killed = Command::new("kill").args(["-TERM", &server.0.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    let (mut data, mut talk) = (String::new(), String::new());
    events.read_to_string(&mut data).unwrap();
    server.0.stderr.take().unwrap().read_to_string(&mut talk).unwrap();
    assert!(server.0.wait().unwrap().success(), "{talk}");
    assert!(talk.contains("stopped") && !(data + &talk).contains("stamps"), "prompts are not logged: {talk}");
    rest
}

#[test]
fn a_stream_under_way_is_completed_after_sigterm() {
    let rest = terminated(1, &["--pace", "200", "--grace_secs", "60"]);
    assert!(rest.contains("\"finish_reason\":\"stop\"") && rest.contains("data: [DONE]"), "{rest}");
    assert!(!rest.contains("stopping"));
}

#[test]
fn a_stream_that_takes_longer_than_the_grace_is_told_so() {
    let rest = terminated(1, &["--pace", "20", "--grace_secs", "1"]);
    assert!(rest.contains("the server is stopping") && rest.contains("data: [DONE]"), "{rest}");
}

#[test]
fn a_second_sigterm_cuts_the_grace_short_and_the_stream_is_told_so() {
    let rest = terminated(2, &["--pace", "10", "--grace_secs", "600"]);
    assert!(rest.contains("the server is stopping") && rest.contains("data: [DONE]"), "{rest}");
}

#[test]
fn contradictions_about_who_may_ask_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let refused = |key: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tpv"));
        command.args(["serve", "--port", "0"]).args(args).env("TPV_HOME", home.path()).env("TPV_API_KEY", key);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused("secret", &["--no_auth"]).contains("leave one out"));
    assert!(refused("", &[]).contains("TPV_API_KEY is there and holds no key"));
}
