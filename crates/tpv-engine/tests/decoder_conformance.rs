//! The decoder passes the suite that every engine passes.

#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use common::{ALL, device, load_on};
use tpv_engine::conformance::{Tolerance, check_engine};
use tpv_engine::device::DeviceChoice;

/// On CPUs rows do not depend on the batch at all; libraries of GPUs sum in an order that depends on it.
#[test]
fn the_f32_decoder_is_an_engine_whose_rows_do_not_depend_on_the_batch() {
    let most = if device() == DeviceChoice::Cpu { 0.0 } else { 1e-4 };
    let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 5) % 90 + 2).collect();
    for name in ALL {
        check_engine(
            &mut || load_on(device(), name).engine,
            &tokens,
            Tolerance { batch: most, chunk: most, head: most },
        );
    }
}
