//! What may go wrong: clients that leave, send half a request or do not read, models that fail, and the end of the server.

use crate::models::{endless, letter, scripted};
use crate::server::{Running, next_chunk, post, question, slow, start, start_with, stream};
use serde_json::json;
use std::io::{BufRead, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A server that makes a token every so many milliseconds, and the steps it has made.
fn counting(step_millis: u64) -> (Running, Arc<AtomicUsize>) {
    let steps = Arc::new(AtomicUsize::new(0));
    let (counted, word) = (Arc::clone(&steps), letter("a"));
    let model = move || {
        scripted(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            word
        })
    };
    (start_with(model, |config| config.limits.step_time = Duration::from_millis(step_millis)), steps)
}

#[test]
fn a_client_that_leaves_frees_its_slot_within_two_tokens() {
    let (server, steps) = counting(150);
    let (mut reader, _) = stream(&server, json!({ "stream": true }));
    (0..3).for_each(|_| drop(next_chunk(&mut reader)));
    let before = steps.load(Ordering::SeqCst);
    drop(reader);
    std::thread::sleep(Duration::from_millis(900));
    let after = steps.load(Ordering::SeqCst);
    assert!(before >= 3 && after - before <= 2, "{before} {after}");
    assert_eq!((server.metric("tpv_num_requests_running"), server.metric("tpv_disconnects_total")), (0.0, 1.0));
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "elsewhere the end of the client's side ends its request")]
fn what_is_ready_is_answered_though_the_client_has_closed_its_side() {
    let server = start(|_| ());
    for _ in 0..20 {
        let mut connection = server.connect();
        connection.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        connection.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// The reader of a request stops at what follows it, so the end must be seen in another way.
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "only Linux says so")]
fn a_client_that_leaves_behind_further_bytes_frees_its_slot_too() {
    let (server, steps) = counting(100);
    for (stream, behind) in
        [(false, "\r\n"), (true, "\r\n"), (false, "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")]
    {
        let mut connection = server.connect();
        let body = question(json!({ "stream": stream })).to_string();
        let begun = steps.load(Ordering::SeqCst);
        connection.write_all((post("/v1/chat/completions", &body, "") + behind).as_bytes()).unwrap();
        while steps.load(Ordering::SeqCst) < begun + 3 {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(connection);
        let before = steps.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(600));
        let after = steps.load(Ordering::SeqCst);
        assert!(after - before <= 2, "{stream} {behind:?}: {before} {after}");
    }
    assert_eq!((server.metric("tpv_num_requests_running"), server.metric("tpv_disconnects_total")), (0.0, 3.0));
}

#[test]
fn a_request_that_is_refused_late_is_no_client_that_left() {
    let server = start(|_| {});
    let refused = server.post("/v1/completions", &json!({ "prompt": ["a", []], "max_tokens": 3 }));
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert_eq!(server.chat(json!({ "max_tokens": 2 })).status, 200);
    server.wait_for_metric("tpv_num_requests_running", 0.0);
    assert_eq!(server.metric("tpv_disconnects_total"), 0.0);
}

#[test]
fn a_slow_pace_delays_neither_control_nor_the_end() {
    let word = letter("a");
    let server = start_with(
        move || scripted(move |_| word),
        |config| {
            config.limits.step_time = Duration::from_secs(30);
            config.limits.grace = Duration::ZERO;
        },
    );
    let began = Instant::now();
    let (_reader, id) = stream(&server, json!({ "stream": true }));
    std::thread::sleep(Duration::from_millis(200));
    let changed = server.post("/v1/chat/completions/control", &json!({ "id": id, "alpha": 3 }));
    assert_eq!(changed.json()["applied"], 1);
    drop(server); // waits for its end
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

/// Tokens of [`endless`] that no socket holds.
const MANY: usize = 12_000;

#[test]
fn a_slow_reader_loses_its_samples_and_nobody_waits_for_it() {
    let server = start_with(endless, |_| {});
    let (mut reader, _) = stream(&server, json!({ "stream": true, "max_tokens": MANY }));
    // With the second token it counts as running.
    (0..2).for_each(|_| drop(next_chunk(&mut reader)));
    let deadline = Instant::now() + Duration::from_secs(50);
    while server.metric("tpv_num_requests_running") > 0.0 {
        assert_eq!(server.chat(json!({ "max_tokens": 2 })).status, 200, "another client is answered meanwhile");
        assert!(Instant::now() < deadline, "the slow reader keeps its slot");
    }
    let made = server.metric("tpv_generation_tokens_total");
    assert!(made < MANY as f64, "everything was made for a client that reads nothing: {made}");
    let mut rest = String::new();
    while !rest.contains("slow_reader") {
        rest.clear();
        assert!(reader.read_line(&mut rest).unwrap() > 0, "the stream says why it ends");
    }
    (0..6).for_each(|_| assert!(reader.read_line(&mut rest).is_ok()));
    assert!(rest.contains("data: [DONE]"), "{rest}");
}

#[test]
fn a_connection_that_takes_nothing_is_closed() {
    let server = start_with(endless, |config| {
        config.limits.transfer_time = Duration::from_millis(500);
        config.limits.max_per_client = 1;
    });
    let (reader, _) = stream(&server, json!({ "stream": true, "max_tokens": MANY }));
    let deadline = Instant::now() + Duration::from_secs(50);
    while server.chat(json!({ "max_tokens": 2 })).status != 200 {
        assert!(Instant::now() < deadline, "the client that takes nothing keeps its place");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(reader);
}

#[test]
fn a_step_that_panics_is_said_and_the_next_request_is_answered() {
    let (word, poison) = (letter("a"), letter("z"));
    let model = move || scripted(move |tokens| if tokens.ends_with(&[poison]) { panic!("scripted") } else { word });
    let server = start_with(model, |_| {});
    let biased = server.chat(json!({ "max_tokens": 50, "logit_bias": { poison.to_string(): 100 } }));
    assert_eq!((biased.status, biased.json()["error"]["code"].as_str()), (500, Some("internal_error")));
    let answer = server.chat(json!({ "max_tokens": 50 })).json();
    assert_eq!(answer["usage"]["completion_tokens"], 50);
    assert_eq!(server.metric("tpv_disconnects_total"), 0.0);
    let timed = server.metric("tpv_e2e_request_latency_seconds_count");
    assert_eq!(timed, 1.0, "how long an answer took that was given up, nobody knows");
}

#[test]
fn silence_is_filled_and_half_a_request_is_not_waited_for() {
    let server = start(|config| {
        config.limits.step_time = Duration::from_millis(700);
        config.limits.keep_alive = Duration::from_millis(100);
        config.limits.transfer_time = Duration::from_millis(300);
    });
    let answer = server.chat(json!({ "stream": true, "max_tokens": 2 }));
    assert!(answer.body.contains(": still here"), "{}", answer.body);
    let half = |text: &str| {
        let mut half = server.connect();
        half.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        half.read_to_string(&mut answer).unwrap();
        answer
    };
    assert_eq!(half("POST /v1/chat/completions HTTP/1.1\r\nhost: loc"), "", "closed without a word");
    assert_eq!(half(""), "");
    let body = half("POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 20\r\n\r\n{");
    assert!(body.starts_with("HTTP/1.1 408") && body.contains("request_timeout"), "{body}");
}

#[test]
fn a_stop_lets_answers_end() {
    let server = start(slow);
    let (mut reader, id) = stream(&server, json!({ "stream": true, "max_tokens": 20 }));
    let mut half = server.connect();
    half.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 20\r\n\r\n{").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    server.stop.store(true, Ordering::SeqCst);
    let mut status = [0; 12];
    half.read_exact(&mut status).unwrap();
    assert_eq!(status, *b"HTTP/1.1 503", "a body that is still on its way is not waited for");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(server.get("/health").status, 503, "no new work while old work ends");
    let changed = server.post("/v1/chat/completions/control", &json!({ "id": id, "alpha": 1 }));
    assert_eq!(changed.json()["applied"], 1, "what is under way can still be changed");
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"finish_reason\":\"length\"") && rest.contains("data: [DONE]"), "{rest}");
}

#[test]
fn a_stop_lets_answers_end_and_cuts_those_that_take_too_long() {
    let server = start(|config| {
        slow(config);
        config.limits.grace = Duration::from_millis(300);
    });
    let (mut reader, _) = stream(&server, json!({ "stream": true }));
    next_chunk(&mut reader);
    server.stop.store(true, Ordering::SeqCst);
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("the server is stopping") && rest.contains("data: [DONE]"), "{rest}");
}

#[test]
fn a_second_wish_to_stop_cuts_the_grace_short_and_says_so() {
    let server = start(|config| {
        slow(config);
        config.limits.grace = Duration::from_secs(600);
    });
    let (mut reader, _) = stream(&server, json!({ "stream": true }));
    let (mut other, _) = stream(&server, json!({ "stream": true, "n": 2 }));
    server.stop.store(true, Ordering::SeqCst);
    (0..3).for_each(|_| drop(next_chunk(&mut reader)));
    server.stop_at_once.store(true, Ordering::SeqCst);
    for reader in [&mut reader, &mut other] {
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("the server is stopping") && rest.contains("data: [DONE]"), "{rest}");
        assert!(!rest.contains("\"finish_reason\":\"stop\""), "{rest}");
    }
}
