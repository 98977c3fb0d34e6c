//! The server over real sockets, with the bundled model: answers, refusals, faults and the end.
#![expect(clippy::unwrap_used, reason = "a test that unwraps nothing fails")]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tpv_core::reading::Calibration;
use tpv_core::vector::{LinearHead, ProgressVector};
use tpv_engine::decode::DecodeLimits;
use tpv_engine::load::{LoadOptions, ModelSource};
use tpv_engine::model::{TextFiles, TextModel};
use tpv_server::config::{Access, Limits, ServerConfig};
use tpv_server::{Served, ServedVector, Server, ServerError};

struct Running {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn thinker() -> TextModel {
    let source = ModelSource::Embedded { config: tpv_thinker::CONFIG, weights: tpv_thinker::WEIGHTS };
    let text = TextFiles {
        tokenizer: tpv_thinker::TOKENIZER.into(),
        tokenizer_config: Some(tpv_thinker::TOKENIZER_CONFIG.into()),
        generation_config: Some(tpv_thinker::GENERATION_CONFIG.into()),
        config: Some(tpv_thinker::CONFIG.into()),
        chat_template: None,
    };
    TextModel::load("thinker", None, &source, &text, &LoadOptions::default(), DecodeLimits::default()).unwrap()
}

/// A vector that reads something and, pushed, ends the thinking: the row of `</think>` itself.
fn vector(model: &TextModel) -> ServedVector {
    let width = model.identity.hidden_size;
    let end = model.prompts.think_end[0] as usize;
    let unit = |place: usize| (0..width).map(|k| f32::from(u8::from(k == place))).collect::<Vec<f32>>();
    let row: Vec<f32> = (0..width).map(|place| model.decoder.project(&unit(place)).unwrap()[end]).collect();
    let head = LinearHead { weights: row.clone(), intercept: 0.0 };
    let efforts = [("low".to_string(), 50.0)].into();
    let vector = ProgressVector { theta: row, progress: head, efforts, ..ProgressVector::default() };
    ServedVector { vector, calibration: None::<Calibration>, warnings: Vec::new() }
}

fn start(change: impl FnOnce(&mut ServerConfig)) -> Running {
    let mut config = ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..ServerConfig::default() };
    change(&mut config);
    let server = Server::start(config).unwrap();
    let (address, stop) = (server.address(), Arc::new(AtomicBool::new(false)));
    let flag = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        let model = thinker();
        let vector = Some(vector(&model));
        server.run(Served { model, vector }, || flag.load(Ordering::SeqCst)).unwrap();
    });
    let running = Running { address, stop, thread: Some(thread) };
    let deadline = Instant::now() + Duration::from_secs(60);
    while running.get("/health").status != 200 {
        assert!(Instant::now() < deadline, "the model does not load");
        std::thread::sleep(Duration::from_millis(20));
    }
    running
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{} {}", self.head, self.body))
    }

    fn chunks(&self) -> Vec<Value> {
        let data: Vec<&str> = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(data.last(), Some(&"[DONE]"), "{}", self.body);
        data[..data.len() - 1].iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Running {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    fn send(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        // A refusal may close the connection before everything is sent.
        let _ = stream.write_all(request);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8(bytes).expect("answers are UTF-8");
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0);
        let body = if head.contains("chunked") { unchunk(body) } else { body.to_owned() };
        Answer { status, head: head.to_owned(), body }
    }

    fn get(&self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(post(path, &body.to_string(), "connection: close\r\n").as_bytes())
    }

    fn chat(&self, extra: Value) -> Answer {
        self.post("/v1/chat/completions", &question(extra))
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{name}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return text;
        }
        text += &rest[..length];
        body = rest[length..].strip_prefix("\r\n").unwrap();
    }
    panic!("the last chunk is missing: {text}");
}

fn post(path: &str, body: &str, headers: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

fn question(extra: Value) -> Value {
    let text = "Ivy has 6 stamps. Day 1: finds 4. Day 2: sells 3. How many stamps does Ivy have now?";
    let mut body = json!({ "model": "thinker", "messages": [{ "role": "user", "content": text }], "seed": 7 });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn joined(chunks: &[Value], field: &str) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"][field].as_str()).collect()
}

#[test]
fn streamed_and_whole_answers_agree() {
    let server = start(|_| {});
    let whole = server.chat(json!({})).json();
    let message = &whole["choices"][0]["message"];
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(message["reasoning"], message["reasoning_content"]);
    assert!(message["content"].as_str().unwrap().contains("boxed"), "{whole}");
    assert!(!whole.to_string().contains("think>") && whole.get("tpv").is_none());
    let usage = &whole["usage"];
    let (reasoning, completion) =
        (usage["completion_tokens_details"]["reasoning_tokens"].as_u64(), usage["completion_tokens"].as_u64());
    assert!(reasoning > Some(0) && reasoning < completion, "{usage}");

    let answer = server.chat(json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let mut chunks = answer.chunks();
    assert!(answer.head.contains("text/event-stream"));
    let last = chunks.pop().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), usage));
    assert!(chunks.iter().all(|chunk| chunk["id"] == last["id"] && chunk["choices"].as_array().unwrap().len() == 1));
    assert!(chunks.iter().all(|chunk| chunk.get("tpv").is_none()));
    assert_eq!(joined(&chunks, "reasoning"), message["reasoning"].as_str().unwrap());
    assert_eq!(joined(&chunks, "content"), message["content"].as_str().unwrap());
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
}

#[test]
fn progress_comes_only_when_asked_for_and_a_push_shortens_the_thought() {
    let server = start(|_| {});
    let thinking_tokens = |extra: Value| {
        let chunks = server.chat(extra).chunks();
        let summary = chunks.last().unwrap()["tpv"]["summary"].clone();
        let readings = chunks.iter().filter(|chunk| chunk["tpv"]["raw"].is_number()).count() as u64;
        assert_eq!(Some(readings), summary["thinking_tokens"].as_u64(), "{summary}");
        readings
    };
    let plain = thinking_tokens(json!({ "stream": true, "tpv": { "progress": true } }));
    let zero = thinking_tokens(json!({ "stream": true, "tpv": { "progress": true, "policy": "constant:0" } }));
    let pushed = thinking_tokens(json!({ "stream": true, "tpv": { "progress": true, "policy": "constant:50" } }));
    let effort = thinking_tokens(json!({ "stream": true, "tpv": { "progress": true }, "reasoning_effort": "low" }));
    let budget = thinking_tokens(json!({ "stream": true, "tpv": { "progress": true, "policy": "budget:5" } }));
    assert_eq!(plain, zero);
    assert_eq!(pushed, effort);
    assert!(pushed < plain && budget <= 6, "{plain} {pushed} {budget}");
}

#[test]
fn several_choices_and_plain_completions() {
    let server = start(|_| {});
    let whole = server.chat(json!({ "n": 2, "max_tokens": 5 })).json();
    assert_eq!(whole["choices"].as_array().unwrap().len(), 2);
    assert_eq!((&whole["choices"][1]["index"], &whole["choices"][1]["finish_reason"]), (&json!(1), &json!("length")));
    assert_eq!(whole["usage"]["completion_tokens"], 10);
    let body = json!({ "prompt": ["Ivy has 6 stamps.\n<think>\n", "Bob has 2 pens.\n<think>\n"], "max_tokens": 4, "temperature": 0 });
    let whole = server.post("/v1/completions", &body).json();
    assert_eq!((&whole["object"], whole["choices"].as_array().unwrap().len()), (&json!("text_completion"), 2));
    let biased = server.chat(json!({ "max_tokens": 4, "logit_bias": { "5": 100 }, "temperature": 0 })).json();
    let plain = server.chat(json!({ "max_tokens": 4, "temperature": 0 })).json();
    assert_ne!(biased["choices"][0]["message"], plain["choices"][0]["message"]);
}

#[test]
fn refusals_have_a_status_and_name_the_field() {
    let server = start(|config| config.limits.max_body_bytes = 2 << 20);
    let refusal = |extra: Value| {
        let answer = server.chat(extra);
        let error = answer.json()["error"].clone();
        (answer.status, error["param"].as_str().map(str::to_owned), error["message"].as_str().unwrap().to_owned())
    };
    let field = |extra: Value| {
        let (status, field, _) = refusal(extra);
        (status, field.unwrap())
    };
    assert_eq!(field(json!({ "temperature": -1 })), (422, "temperature".into()));
    assert_eq!(field(json!({ "tpv": { "policy": "warp:9" } })), (422, "tpv.policy".into()));
    assert_eq!(field(json!({ "reasoning_effort": "heroic" })), (422, "reasoning_effort".into()));
    assert_eq!(field(json!({ "model": "gpt-5" })), (404, "model".into()));
    assert_eq!(
        field(json!({ "messages": [{ "role": "user", "content": "word ".repeat(9000) }] })),
        (422, "messages".into())
    );
    let send = |text: &str| server.send(post("/v1/chat/completions", text, "connection: close\r\n").as_bytes());
    assert_eq!(send(&"{".repeat(1_000_000)).status, 400);
    assert_eq!(send(&"[".repeat(1_000_000)).status, 400);
    assert_eq!(send("{\"messages\": ").status, 400);
    assert_eq!(send(&"x".repeat(3 << 20)).status, 413);
    assert_eq!(server.get("/v1/nothing").status, 404);
    assert_eq!(server.get("/v1/completions").status, 405);
    for hostile in [
        "GET / HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n".to_owned(),
        "GET /v1/models HTTP/1.1\r\nhost: localhost\r\norigin: https://evil.example\r\nconnection: close\r\n\r\n"
            .into(),
    ] {
        assert_eq!(server.send(hostile.as_bytes()).status, 403, "{hostile}");
    }
    for hostile in [
        "\x16\x03\x01\x02\r\n\r\n".to_owned(),
        post("/v1/completions", "{}", "transfer-encoding: chunked\r\n"),
        "POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n".into(),
        "POST / HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".into(),
    ] {
        assert_eq!(server.send(hostile.as_bytes()).status, 400, "{hostile}");
    }
    let long = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "a".repeat(40_000));
    assert_eq!(server.send(long.as_bytes()).status, 431);
    assert_eq!(server.chat(json!({ "max_tokens": 2 })).status, 200, "all of that touched nobody else");
}

#[test]
fn a_chunked_body_and_a_connection_used_twice() {
    let server = start(|_| {});
    let body = question(json!({ "max_tokens": 2 })).to_string();
    let (first, second) = body.split_at(20);
    let chunked = format!("{:x}\r\n{first}\r\n{:x};ext=1\r\n{second}\r\n0\r\n\r\n", first.len(), second.len());
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n";
    let twice = format!("{head}\r\n{chunked}{head}connection: close\r\n\r\n{chunked}");
    let answer = server.send(twice.as_bytes());
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body.matches("HTTP/1.1 200 OK").count(), 1, "the second answer follows the first");
}

#[test]
fn the_key_is_asked_for_and_other_addresses_need_one() {
    let server = start(|config| config.access = Access { api_key: Some("secret".into()), ..Access::default() });
    assert_eq!(server.get("/v1/models").status, 401);
    assert_eq!((server.get("/").status, server.get("/health").status), (200, 200));
    let request =
        "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer secret\r\nconnection: close\r\n\r\n";
    assert_eq!(server.send(request.as_bytes()).status, 200);
    let open = ServerConfig { address: "0.0.0.0:0".parse().unwrap(), ..ServerConfig::default() };
    assert!(matches!(Server::start(open), Err(ServerError::Open(_))));
}

#[test]
fn the_page_forbids_everything_from_elsewhere() {
    let server = start(|_| {});
    for path in ["/", "/page.js", "/page.css", "/favicon.svg"] {
        let answer = server.get(path);
        assert_eq!(answer.status, 200);
        assert!(answer.head.contains("default-src 'none'"), "{path}");
    }
    let page = server.get("/").body;
    assert!(!page.contains("style=") && !page.contains("http://") && !page.contains("https://"));
}

/// Reads a stream line by line.
fn stream(server: &Running, extra: Value) -> (BufReader<TcpStream>, String) {
    let mut connection = server.connect();
    let body = question(extra).to_string();
    connection.write_all(post("/v1/chat/completions", &body, "").as_bytes()).unwrap();
    let mut reader = BufReader::new(connection);
    let id = next_chunk(&mut reader)["id"].as_str().unwrap().to_owned();
    (reader, id)
}

fn next_chunk(reader: &mut BufReader<TcpStream>) -> Value {
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the stream ended early");
        if let Some(data) = line.strip_prefix("data: {") {
            return serde_json::from_str(&format!("{{{data}")).unwrap();
        }
    }
}

fn slow(config: &mut ServerConfig) {
    config.limits.step_time = Duration::from_millis(40);
}

#[test]
fn control_ends_a_thought_and_changes_alpha_under_way() {
    let server = start(slow);
    let (mut reader, id) = stream(&server, json!({ "stream": true, "tpv": { "progress": true } }));
    while next_chunk(&mut reader)["tpv"]["index"] != 3 {}
    let control = |change: Value| server.post("/v1/chat/completions/control", &change);
    assert_eq!(control(json!({ "id": id, "alpha": 0.5 })).json()["applied"], 1);
    while next_chunk(&mut reader)["tpv"]["alpha"] != 0.5 {}
    assert_eq!(control(json!({ "id": id, "end_thinking": true })).json()["applied"], 1);
    let mut last = next_chunk(&mut reader);
    let mut forced = false;
    while last["tpv"]["summary"].is_null() {
        forced |= last["tpv"]["forced"] == true;
        last = next_chunk(&mut reader);
    }
    let tokens = last["tpv"]["summary"]["thinking_tokens"].as_u64().unwrap();
    assert!(forced && tokens < 30, "{last}");
    assert_eq!(control(json!({ "id": id, "alpha": 1 })).status, 404);
    assert_eq!(control(json!({ "id": id })).status, 422);
}

#[test]
fn a_client_that_leaves_frees_its_slot_within_two_tokens() {
    let server = start(slow);
    let (mut reader, _) = stream(&server, json!({ "stream": true }));
    next_chunk(&mut reader);
    let before = server.metric("tpv_generation_tokens_total");
    reader.get_ref().shutdown(Shutdown::Both).unwrap();
    drop(reader);
    std::thread::sleep(Duration::from_millis(400));
    let after = server.metric("tpv_generation_tokens_total");
    // One token may be under way when the metric is read, two more are allowed.
    assert!(after - before <= 3.0, "{before} {after}");
    assert_eq!((server.metric("tpv_num_requests_running"), server.metric("tpv_disconnects_total")), (0.0, 1.0));
}

#[test]
fn a_full_queue_is_said_with_a_time_to_come_back() {
    let server = start(|config| {
        slow(config);
        config.limits = Limits { max_batch: 1, max_queue: 0, ..config.limits };
    });
    let (reader, _) = stream(&server, json!({ "stream": true }));
    let refused = server.chat(json!({}));
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    drop(reader);
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(server.chat(json!({ "max_tokens": 1 })).status, 200);
}

#[test]
fn one_client_cannot_take_all_slots() {
    let server = start(|config| {
        slow(config);
        config.limits.max_per_client = 1;
    });
    let (_reader, _) = stream(&server, json!({ "stream": true }));
    assert_eq!(server.chat(json!({})).status, 429);
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
    let mut half = server.connect();
    half.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: loc").unwrap();
    let mut text = String::new();
    half.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
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
fn a_model_that_still_loads_is_said_with_503() {
    let server =
        Server::start(ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..ServerConfig::default() }).unwrap();
    let running = Running { address: server.address(), stop: Arc::default(), thread: None };
    let health = running.get("/health");
    assert_eq!((health.status, health.json()["error"]["code"].as_str()), (503, Some("loading")));
    assert_eq!(running.chat(json!({})).status, 503);
    drop(server);
}
