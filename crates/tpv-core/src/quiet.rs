//! Parts of libraries that panic on damaged files.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What a part gives, or `None` where it panicked. Nothing that it could leave half-changed may be used afterwards.
///
/// Programs that do not want to print such panics ask [`is_quiet`] in their panic hook.
pub fn quietly<T>(part: impl FnOnce() -> T) -> Option<T> {
    let before = IS_QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(part));
    IS_QUIET.set(before);
    result.ok()
}

/// Whether this thread is within [`quietly`].
pub fn is_quiet() -> bool {
    IS_QUIET.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_nothing_and_quiet_ends_with_it() {
        assert_eq!(quietly(is_quiet), Some(true));
        assert_eq!(quietly(|| -> u32 { panic!("damaged") }), None);
        assert!(!is_quiet());
    }
}
