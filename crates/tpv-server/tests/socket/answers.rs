//! What answers look like: whole, streamed, with progress, in several choices, and under control.

use crate::models::thinker_with;
use crate::server::{joined, next_chunk, question, slow, start, start_with, stream};
use serde_json::{Value, json};
use tpv_engine::load::LoadOptions;
use tpv_server::Served;

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
fn a_stop_text_ends_plain_completions_in_the_thinking_and_chats_only_in_the_answer() {
    let server = start(|_| {});
    let prompt = "Bob has 2 pens. Day 1: finds 3. How many pens does Bob have now?\n<think>\n";
    let complete = |stop: &str| {
        let body = json!({ "prompt": prompt, "max_tokens": 400, "temperature": 0, "stop": stop });
        server.post("/v1/completions", &body).json()["choices"][0].clone()
    };
    let whole = complete("words that never come")["text"].as_str().unwrap().to_owned();
    let thought = whole.split("</think>").next().unwrap();
    let word = thought.split_whitespace().nth(5).unwrap();
    let cut = complete(word);
    assert_eq!((cut["text"].as_str(), &cut["finish_reason"]), (whole.split(word).next(), &json!("stop")), "{whole}");
    let chat = server.chat(json!({ "temperature": 0, "stop": word })).json();
    let plain = server.chat(json!({ "temperature": 0 })).json();
    assert_eq!(chat["choices"][0]["message"]["reasoning"], plain["choices"][0]["message"]["reasoning"]);
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
fn control_ends_a_thought_and_changes_alpha_under_way() {
    let server = start(slow);
    let (mut reader, id) = stream(&server, json!({ "stream": true, "tpv": { "progress": true } }));
    while next_chunk(&mut reader)["tpv"]["index"] != 3 {}
    let control = |change: Value| server.post("/v1/chat/completions/control", &change);
    assert_eq!(control(json!({ "id": id, "alpha": 0.5 })).json()["applied"], 1);
    while next_chunk(&mut reader)["tpv"]["alpha"] != 0.5 {}
    assert_eq!(control(json!({ "id": id, "end_thinking": true })).json()["applied"], 1);
    for choice in [json!(1), json!("first")] {
        let answer = control(json!({ "id": id, "alpha": 1, "choice": choice }));
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!("choice")));
    }
    let mut last = next_chunk(&mut reader);
    let (mut forced, mut answered) = (false, false);
    while last["tpv"]["summary"].is_null() {
        forced |= last["tpv"]["forced"] == true;
        if !answered && last["tpv"]["phase"] == "answer" {
            answered = true;
            assert_eq!(control(json!({ "id": id, "alpha": 1 })).json()["applied"], 0, "the thought has ended");
            assert_eq!(control(json!({ "id": id, "end_thinking": true })).json()["applied"], 0);
        }
        last = next_chunk(&mut reader);
    }
    let tokens = last["tpv"]["summary"]["thinking_tokens"].as_u64().unwrap();
    assert!(forced && answered && tokens < 30, "{last}");
    assert_eq!(control(json!({ "id": id, "alpha": 1 })).status, 404);
    assert_eq!(control(json!({ "id": id })).status, 400);
}

#[test]
fn an_answer_without_a_length_gets_what_the_memory_holds() {
    let small = || {
        let model = thinker_with(&LoadOptions { kv_tokens: Some(256), ..LoadOptions::default() });
        Served { model, vector: None }
    };
    let server = start_with(small, |_| {});
    assert_eq!(server.get("/v1/models").json()["data"][0]["max_model_len"], 256);
    let usage = |extra: Value| server.chat(extra).json()["usage"]["total_tokens"].as_u64();
    assert!(usage(json!({})) <= Some(256) && usage(json!({ "max_tokens": 10_000 })) <= Some(256));
    let long = server.chat(json!({ "messages": [{ "role": "user", "content": "word ".repeat(300) }] }));
    assert_eq!((long.status, &long.json()["error"]["code"]), (400, &json!("context_length_exceeded")));
}

#[test]
fn numbers_are_written_as_they_were_given() {
    let server = start(|_| {});
    let models = server.get("/v1/models").body;
    assert!(models.contains(r#""temperature":0.6,"#) && models.contains(r#""top_p":0.95"#), "{models}");
    let answer = server.chat(json!({ "stream": true, "tpv": { "progress": true, "policy": "constant:0.1" } }));
    assert!(answer.body.contains(r#""alpha":0.1,"#), "{}", answer.body);
}

#[test]
fn the_counters_add_up() {
    let server = start(|_| {});
    let usage = server.chat(json!({ "tpv": { "policy": "constant:2" } })).json()["usage"].clone();
    let count = |field: &Value| field.as_f64().unwrap();
    let (prompt, completion) = (count(&usage["prompt_tokens"]), count(&usage["completion_tokens"]));
    let thinking = count(&usage["completion_tokens_details"]["reasoning_tokens"]);
    for (name, value) in [
        ("tpv_prompt_tokens_total", prompt),
        ("tpv_generation_tokens_total", completion),
        ("tpv_thinking_tokens_total", thinking),
        ("tpv_time_to_first_token_seconds_count", 1.0),
        ("tpv_inter_token_latency_seconds_count", completion - 1.0),
        ("tpv_e2e_request_latency_seconds_count", 1.0),
        ("tpv_request_prompt_tokens_sum", prompt),
        ("tpv_request_generation_tokens_sum", completion),
        ("tpv_request_success_total{finished_reason=\"stop\"}", 1.0),
        ("tpv_thought_length_tokens_sum", thinking),
        ("tpv_alpha_sum", 2.0 * thinking),
        ("tpv_progress_at_think_end_count", 1.0),
        ("tpv_disconnects_total", 0.0),
    ] {
        assert_eq!(server.metric(name), value, "{name}");
    }
    server.wait_for_metric("tpv_kv_cache_usage_perc", 0.0);
    for name in ["tpv_num_requests_running", "tpv_num_requests_waiting"] {
        assert!(server.metric(name) <= 1.0, "{name}");
    }
}
