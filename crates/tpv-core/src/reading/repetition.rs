//! Loops of tokens: a model that says the same again and again.
//!
//! For every period p up to [`MOST_PERIOD`] the detector counts how many tokens in a row equal the one p before. A run of
//! `max(3 p, 48)` means that the last stretch was said at least four times over, and is called a loop. Text that merely
//! resembles itself (a second check with other numbers) breaks every run.

/// The longest stretch that is recognised, in tokens.
pub const MOST_PERIOD: usize = 512;

/// Repeats after the first time that make a loop.
const REPEATS: u32 = 3;
/// The shortest run that makes a loop, in tokens.
const LEAST_RUN: u32 = 48;

/// Follows the token ids of one thought; [`MOST_PERIOD`] comparisons per token.
#[derive(Debug, Clone)]
pub struct RepetitionDetector {
    /// At least the last [`MOST_PERIOD`] tokens, the newest last.
    recent: Vec<u32>,
    /// Per period - 1: how many tokens in a row equal the one a period before.
    runs: Vec<u32>,
}

impl Default for RepetitionDetector {
    fn default() -> Self {
        Self { recent: Vec::with_capacity(2 * MOST_PERIOD), runs: vec![0; MOST_PERIOD] }
    }
}

impl RepetitionDetector {
    /// Takes the next token; the period of the loop that it continues, if any.
    pub fn push(&mut self, token: u32) -> Option<usize> {
        for (run, &earlier) in self.runs.iter_mut().zip(self.recent.iter().rev()) {
            *run = if earlier == token { run.saturating_add(1) } else { 0 };
        }
        if self.recent.len() == 2 * MOST_PERIOD {
            self.recent.drain(..MOST_PERIOD);
        }
        self.recent.push(token);
        let loops = |(k, &run): (usize, &u32)| (run >= (REPEATS * (k as u32 + 1)).max(LEAST_RUN)).then_some(k + 1);
        self.runs.iter().enumerate().find_map(loops)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first index at which a loop is found, with its period.
    fn first_loop(tokens: impl IntoIterator<Item = u32>) -> Option<(usize, usize)> {
        let mut detector = RepetitionDetector::default();
        tokens.into_iter().enumerate().find_map(|(index, token)| detector.push(token).map(|period| (index, period)))
    }

    #[test]
    fn one_token_again_and_again() {
        assert_eq!(first_loop([7; 100]), Some((48, 1)));
    }

    #[test]
    fn a_sentence_said_four_times() {
        let tokens = (0..500).chain((0..10).flat_map(|_| 1000..1030));
        // The first time ends at 529; three further times of 30 tokens are complete at index 619.
        assert_eq!(first_loop(tokens), Some((619, 30)));
    }

    #[test]
    fn the_longest_period_is_found_and_a_longer_one_is_not() {
        let saying = |period: u32| (0..6).flat_map(move |_| 0..period);
        assert_eq!(first_loop(saying(512)).map(|found| found.1), Some(512));
        assert_eq!(first_loop(saying(513)), None);
    }

    #[test]
    fn lines_that_differ_in_one_number_are_no_loop() {
        assert_eq!(first_loop((0..200).flat_map(|k| [1, 2, 3, 4, 5, 6, 7, 100 + k])), None);
    }

    #[test]
    fn agrees_with_the_definition_on_small_alphabets() {
        let mut state = 1u32;
        let mut tokens = Vec::new();
        let mut detector = RepetitionDetector::default();
        for step in 0..4000u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Alternates between noise and repeats of the last few tokens.
            let back = 1 + (step / 400) as usize;
            let token = if step % 400 < 100 { state >> 31 } else { tokens[tokens.len() - back] };
            tokens.push(token);
            let found = detector.push(token);
            let n = tokens.len();
            let defined = (1..=MOST_PERIOD).find(|&p| {
                let run = (3 * p).max(48);
                n >= run + p && (n - run..n).all(|k| tokens[k] == tokens[k - p])
            });
            assert_eq!(found, defined, "at {step}");
        }
    }
}
