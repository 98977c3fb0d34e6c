//! The decoder passes the suite that every engine passes.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use common::{ALL, load};
use tpv_engine::conformance::{Tolerance, check_engine};

#[test]
fn the_f32_decoder_is_an_engine_whose_rows_do_not_depend_on_the_batch() {
    let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 5) % 90 + 2).collect();
    for name in ALL {
        check_engine(&mut || load(name).engine, &tokens, Tolerance { batch: 0.0, chunk: 0.0, head: 0.0 });
    }
}
