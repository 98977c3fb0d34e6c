//! A server on a free port of this machine, and a client that speaks to it byte by byte.

use crate::models::{thinker, vector};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tpv_server::config::ServerConfig;
use tpv_server::{Served, Server};

pub struct Running {
    pub address: SocketAddr,
    pub stop: Arc<AtomicBool>,
    pub stop_at_once: Arc<AtomicBool>,
    pub thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Serves the bundled model.
pub fn start(change: impl FnOnce(&mut ServerConfig)) -> Running {
    let served = || {
        let model = thinker();
        let vector = Some(vector(&model));
        Served { model, vector }
    };
    start_with(served, change)
}

/// Serves any model.
pub fn start_with(served: impl FnOnce() -> Served + Send + 'static, change: impl FnOnce(&mut ServerConfig)) -> Running {
    let mut config = ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..ServerConfig::default() };
    change(&mut config);
    let server = Server::start(config).unwrap();
    let (address, stop, stop_at_once) = (server.address(), Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let (flag, hurry) = (Arc::clone(&stop), Arc::clone(&stop_at_once));
    let thread = std::thread::spawn(move || {
        server.load(served()).unwrap().run(|| flag.load(Ordering::SeqCst), || hurry.load(Ordering::SeqCst));
    });
    let running = Running { address, stop, stop_at_once, thread: Some(thread) };
    let deadline = Instant::now() + Duration::from_secs(60);
    while running.get("/health").status != 200 {
        assert!(Instant::now() < deadline, "the model does not load");
        std::thread::sleep(Duration::from_millis(20));
    }
    running
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{} {}", self.head, self.body))
    }

    pub fn chunks(&self) -> Vec<Value> {
        let data: Vec<&str> = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(data.last(), Some(&"[DONE]"), "{}", self.body);
        data[..data.len() - 1].iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Running {
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    pub fn send(&self, request: &[u8]) -> Answer {
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

    pub fn get(&self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(post(path, &body.to_string(), "connection: close\r\n").as_bytes())
    }

    pub fn chat(&self, extra: Value) -> Answer {
        self.post("/v1/chat/completions", &question(extra))
    }

    /// Waits until a metric has a value, as some have once the step that ended an answer is over.
    pub fn wait_for_metric(&self, name: &str, value: f64) {
        let started = std::time::Instant::now();
        while self.metric(name) != value {
            assert!(started.elapsed().as_secs() < 10, "{name} stays {}", self.metric(name));
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{name}"));
        line.rsplit_once(' ').unwrap().1.parse().unwrap()
    }
}

pub fn unchunk(mut body: &str) -> String {
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

pub fn post(path: &str, body: &str, headers: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

pub fn question(extra: Value) -> Value {
    let text = "Ivy has 6 stamps. Day 1: finds 4. Day 2: sells 3. How many stamps does Ivy have now?";
    let mut body = json!({ "model": "thinker", "messages": [{ "role": "user", "content": text }], "seed": 7 });
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

pub fn joined(chunks: &[Value], field: &str) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"][field].as_str()).collect()
}

/// Reads a stream line by line.
pub fn stream(server: &Running, extra: Value) -> (BufReader<TcpStream>, String) {
    let mut connection = server.connect();
    let body = question(extra).to_string();
    connection.write_all(post("/v1/chat/completions", &body, "").as_bytes()).unwrap();
    let mut reader = BufReader::new(connection);
    let id = next_chunk(&mut reader)["id"].as_str().unwrap().to_owned();
    (reader, id)
}

pub fn next_chunk(reader: &mut BufReader<TcpStream>) -> Value {
    loop {
        let mut line = String::new();
        assert!(reader.read_line(&mut line).unwrap() > 0, "the stream ended early");
        if let Some(data) = line.strip_prefix("data: {") {
            return serde_json::from_str(&format!("{{{data}")).unwrap();
        }
    }
}

pub fn slow(config: &mut ServerConfig) {
    config.limits.step_time = Duration::from_millis(40);
}
