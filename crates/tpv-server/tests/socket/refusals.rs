//! Who and what is refused, with which status, and that nobody else notices.

use crate::models::thinker_with;
use crate::server::{Running, post, slow, start, stream};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tpv_engine::load::LoadOptions;
use tpv_server::config::{Access, Limits, ServerConfig};
use tpv_server::{Served, Server, ServerError};

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
    assert_eq!(field(json!({ "temperature": -1 })), (400, "temperature".into()));
    assert_eq!(field(json!({ "tpv": { "policy": "warp:9" } })), (400, "tpv.policy".into()));
    assert_eq!(field(json!({ "reasoning_effort": "heroic" })), (400, "reasoning_effort".into()));
    assert_eq!(field(json!({ "model": "gpt-5" })), (404, "model".into()));
    assert_eq!(field(json!({ "logit_bias": { "999999": 1 } })), (400, "logit_bias".into()));
    assert_eq!(field(json!({ "logit_bias": { "999999": 1 }, "stream": true })), (400, "logit_bias".into()));
    assert_eq!(field(json!({ "tpv": { "alpha": 1 } })), (400, "tpv.alpha".into()));
    assert_eq!(field(json!({ "tool_choice": "required" })), (400, "tool_choice".into()));
    let beside =
        |effort: &str| json!({ "reasoning_effort": effort, "tpv": { "policy": "constant:1" }, "max_tokens": 1 });
    assert_eq!(field(beside("bogus")), (400, "reasoning_effort".into()));
    assert_eq!(server.chat(beside("low")).status, 200);
    let calls = json!([{ "id": "c1", "type": "function", "function": { "name": "f", "arguments": "{}" } }]);
    let messages =
        json!([{ "role": "user", "content": "?" }, { "role": "assistant", "content": null, "tool_calls": calls }]);
    assert_eq!(field(json!({ "messages": messages })), (400, "messages[1].tool_calls".into()));
    let long = "entropy+".repeat(10_000);
    for extra in [
        json!({ "tpv": { "policy": long } }),
        json!({ "reasoning_effort": long }),
        json!({ "model": long }),
        json!({ "tpv": { long.clone(): 1 } }),
    ] {
        let (status, _, message) = refusal(extra);
        assert!([400, 404].contains(&status) && message.len() < 1200, "{message}");
    }
    for name in ["tools", "response_format", "top_logprobs", "logprobs"] {
        let value = match name {
            "logprobs" => json!(0),
            "top_logprobs" => json!(2),
            _ => json!([{ "type": "json_object" }]),
        };
        let answer = server.post("/v1/completions", &json!({ "prompt": "1 + 1", "max_tokens": 1, name: value }));
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!(name)));
    }
    assert_eq!(
        field(json!({ "messages": [{ "role": "user", "content": "word ".repeat(9000) }] })),
        (400, "messages".into())
    );
    // The toy's template writes the last message alone.
    let long_ago =
        json!([{ "role": "user", "content": "word ".repeat(90_000) }, { "role": "user", "content": "1 + 1" }]);
    assert_eq!(server.chat(json!({ "messages": long_ago, "max_tokens": 1 })).status, 200);
    assert_eq!(server.send(b"GET /health HTTP/1.0\r\n\r\n").status, 200, "health checks ask so");
    assert_eq!(server.send(b"GET /health HTTP/1.1\r\nconnection: close\r\n\r\n").status, 400);
    let send = |text: &str| server.send(post("/v1/chat/completions", text, "connection: close\r\n").as_bytes());
    assert_eq!(send(&"{".repeat(1_000_000)).status, 400);
    assert_eq!(send(&"[".repeat(1_000_000)).status, 400);
    assert_eq!(send("{\"messages\": ").status, 400);
    assert_eq!(send(&"x".repeat(3 << 20)).status, 413);
    for (answer, status, code) in [
        (server.get("/v1/nothing"), 404, "not_found"),
        (server.get("/v1/models/gpt-5"), 404, "model_not_found"),
        (server.get("/v1/completions"), 405, "method_not_allowed"),
        (server.post("/v1/models", &json!({})), 405, "method_not_allowed"),
        (server.get("/v1/models/%ff"), 400, "malformed_request"),
        (server.send(b"GET /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n"), 400, "malformed_request"),
        (
            server.send(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\nconnection: close\r\n\r\n"),
            400,
            "malformed_request",
        ),
    ] {
        assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (status, Some(code)));
    }
    let put = server.send(b"PUT /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    assert!(put.status == 405 && put.body.contains("does not take PUT; use GET here"), "{}", put.body);
    assert!(server.get("/v1/completions").head.contains("allow: POST"));
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
        "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".into(),
    ] {
        assert_eq!(server.send(hostile.as_bytes()).status, 400, "{hostile}");
    }
    let long = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "a".repeat(200_000));
    assert_eq!(server.send(long.as_bytes()).status, 431);
    // The way of HTTP/2 to say hello.
    assert_eq!(server.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").head, "", "closed without a word");
    assert_eq!(server.chat(json!({ "max_tokens": 2 })).status, 200, "all of that touched nobody else");
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
    let mut wrong = ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..ServerConfig::default() };
    wrong.access.allowed_origins.push("*".into());
    assert!(matches!(Server::start(wrong), Err(ServerError::Config(_))));
}

#[test]
fn a_listed_origin_may_send_the_headers_of_its_client() {
    let server = start(|config| config.access.allowed_origins.push("https://chat.example".into()));
    let ask = |method: &str, origin: &str| {
        let head = format!("{method} /v1/models HTTP/1.1\r\nhost: localhost\r\norigin: {origin}\r\n");
        let asked = "access-control-request-headers: authorization,x-stainless-os\r\nconnection: close\r\n\r\n";
        server.send((head + asked).as_bytes())
    };
    let preflight = ask("OPTIONS", "https://chat.example").head;
    assert!(preflight.contains("access-control-allow-headers: authorization,x-stainless-os"), "{preflight}");
    let answer = ask("GET", "https://chat.example").head;
    assert!(answer.contains("access-control-expose-headers: retry-after"), "{answer}");
    assert!(!ask("OPTIONS", "https://evil.example").head.contains("access-control"));
}

#[test]
fn the_page_forbids_everything_from_elsewhere() {
    let server = start(|_| {});
    for path in ["/", "/page/main.js", "/page/lane.js", "/page/page.css", "/favicon.svg"] {
        let answer = server.get(path);
        assert_eq!(answer.status, 200);
        assert!(answer.head.contains("default-src 'none'"), "{path}");
    }
    assert_eq!(server.get("/page/other.js").status, 404);
    let page = server.get("/").body;
    assert!(!page.contains("style=") && !page.contains("http://") && !page.contains("https://"));
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
    let never = server.chat(json!({ "n": 2 }));
    assert_eq!((never.status, &never.json()["error"]["param"]), (400, &json!("n")));
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
fn one_client_cannot_take_all_connections() {
    let server = start(|config| config.limits.max_connections_per_client = Some(2));
    let ask = |mut connection: &std::net::TcpStream| {
        connection.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        connection.read_exact(&mut answer).map(|()| String::from_utf8_lossy(&answer).into_owned())
    };
    let connect = || {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let connection = server.connect();
            if ask(&connection).is_ok_and(|answer| answer == "HTTP/1.1 200") {
                return connection;
            }
            assert!(Instant::now() < deadline, "a connection that has ended frees its place");
        }
    };
    let (one, two) = (connect(), connect());
    let mut refused = String::new();
    server.connect().read_to_string(&mut refused).unwrap();
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: 1"), "{refused}");
    assert!(ask(&one).is_ok() && ask(&two).is_ok(), "the others go on");
    drop(one);
    connect();
}

#[test]
fn kv_memory_without_room_for_a_question_is_refused() {
    let load = |tokens| {
        let config = ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..ServerConfig::default() };
        let model = thinker_with(&LoadOptions { kv_tokens: Some(tokens), ..LoadOptions::default() });
        Server::start(config).unwrap().load(Served { model, vector: None }).map(drop)
    };
    assert!(matches!(load(16), Err(ServerError::KvMemory { tokens: 16..256 })));
    assert!(load(256).is_ok());
}

#[test]
fn a_model_that_still_loads_is_said_with_503() {
    let server =
        Server::start(ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..ServerConfig::default() }).unwrap();
    let address = server.address();
    let running = Running { address, stop: Arc::default(), stop_at_once: Arc::default(), thread: None };
    let health = running.get("/health");
    assert_eq!((health.status, health.json()["error"]["code"].as_str()), (503, Some("loading")));
    assert_eq!(running.chat(json!({})).status, 503);
    drop(server);
}
