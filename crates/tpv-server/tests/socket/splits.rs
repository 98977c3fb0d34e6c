//! However a text is cut into tokens, in the middle of letters and of `</think>` too, the streams keep their promises.

use crate::models::pieces;
use crate::server::{joined, start_with};
use proptest::prelude::*;
use serde_json::json;

/// The text, cut at these places.
fn cut(text: &str, places: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut places: Vec<usize> = places.iter().map(|place| place.index(text.len() + 1)).collect();
    places.extend([0, text.len()]);
    places.sort_unstable();
    places.dedup();
    places.windows(2).map(|pair| text.as_bytes()[pair[0]..pair[1]].to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_text_arrives_whole_however_its_tokens_are_cut(
        thought in prop::collection::vec(prop::sample::select(vec!["hm ", "é", "🙂", "</thi", "<", "漢字", "\n"]), 1..8),
        answer in prop::collection::vec(prop::sample::select(vec!["so ", "ü", "🎈", "</think>", "</", "\n"]), 1..8),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..24),
    ) {
        let (thought, answer) = (thought.concat(), answer.concat());
        let tokens = cut(&format!("{thought}</think>{answer}"), &places);
        let server = start_with(move || pieces(tokens), |_| {});
        let ask = |stream: bool| json!({ "stream": stream, "temperature": 0, "tpv": { "progress": stream } });
        let whole = server.chat(ask(false)).json();
        let message = &whole["choices"][0]["message"];
        prop_assert_eq!(&message["reasoning"], &json!(thought));
        prop_assert_eq!(&message["content"], &json!(answer.replace("</think>", "")));

        let mut body = ask(true);
        body["stream_options"] = json!({ "include_usage": true });
        let mut chunks = server.chat(body).chunks(); // which looks for [DONE] at the end
        let usage = chunks.pop().unwrap();
        prop_assert_eq!((&usage["choices"], &usage["usage"]), (&json!([]), &whole["usage"]));
        for chunk in &chunks {
            prop_assert_eq!(&chunk["id"], &usage["id"]);
            prop_assert_eq!(chunk["choices"].as_array().map(Vec::len), Some(1));
        }
        for field in ["reasoning", "reasoning_content", "content"] {
            prop_assert_eq!(&json!(joined(&chunks, field)), &message[field]);
        }
    }
}
