//! Loops of tokens: a model that says the same again and again.
//!
//! For a period p the run is the number of tokens in a row that equal the one p before. A run of `max(3 p, 48)` means that
//! the last stretch was said at least four times over, and is called a loop. Text that merely resembles itself (a second
//! check with other numbers) breaks every run.
//!
//! Runs are not counted for every period at every token. Every 16 tokens the detector looks for periods whose
//! run is at least that long, and follows these token by token until they break: no run of 48 slips through between two
//! looks, and text without loops costs next to nothing.

/// The longest stretch that is recognised, in tokens.
pub const MOST_PERIOD: usize = 512;

/// Repeats after the first time that make a loop.
const REPEATS: usize = 3;
/// The shortest run that makes a loop, in tokens.
const LEAST_RUN: usize = 48;
/// Tokens between two looks, and the shortest run that is followed.
const LOOK_EVERY: usize = 16;
/// Periods that a look rules out at once.
const BLOCK: usize = 32;
/// Tokens back that a look may need: a run found by it was shorter than [`LOOK_EVERY`] at the last look.
const LOOK_BACK: usize = MOST_PERIOD + 2 * LOOK_EVERY;

/// Follows the token ids of one thought.
#[derive(Debug, Clone, Default)]
pub struct RepetitionDetector {
    /// At least the last [`LOOK_BACK`] tokens, the newest last.
    recent: Vec<u32>,
    /// Tokens since the last look.
    since_look: usize,
    runs: Vec<Run>,
}

/// Tokens in a row that equal the one `period` before.
#[derive(Debug, Clone, Copy)]
struct Run {
    period: usize,
    tokens: usize,
}

impl Run {
    fn is_loop(&self) -> bool {
        self.tokens >= (REPEATS * self.period).max(LEAST_RUN)
    }
}

impl RepetitionDetector {
    /// Takes the next token; the period of the loop that it continues, if any (the shortest one).
    pub fn push(&mut self, token: u32) -> Option<usize> {
        self.follow(token);
        if self.recent.len() == 2 * LOOK_BACK {
            self.recent.drain(..LOOK_BACK);
        }
        self.recent.push(token);
        self.since_look += 1;
        if self.since_look == LOOK_EVERY {
            self.since_look = 0;
            self.look();
        }
        self.runs.iter().filter(|run| run.is_loop()).map(|run| run.period).min()
    }

    /// Drops the runs that the token breaks.
    fn follow(&mut self, token: u32) {
        let recent = &self.recent;
        self.runs.retain_mut(|run| {
            run.tokens += 1;
            recent[recent.len() - run.period] == token
        });
    }

    /// Begins to follow the periods whose run has become long enough.
    fn look(&mut self) {
        let Some((newest, before)) = self.recent.split_last() else { return };
        let longest = MOST_PERIOD.min(self.recent.len().saturating_sub(LOOK_EVERY));
        let mut found = Vec::new();
        // Nearly all periods end here, many at a time, without a comparison of slices.
        for (block, tokens) in before[before.len() - longest..].rchunks(BLOCK).enumerate() {
            if tokens.iter().fold(false, |any, token| any | (token == newest)) {
                let periods = block * BLOCK + 1..=block * BLOCK + tokens.len();
                found.extend(periods.filter(|&period| self.repeats(period)));
            }
        }
        for period in found {
            if self.runs.iter().all(|run| run.period != period) {
                let tokens = self.count(period);
                self.runs.push(Run { period, tokens });
            }
        }
    }

    fn repeats(&self, period: usize) -> bool {
        let end = self.recent.len();
        if self.recent[end - 1] != self.recent[end - 1 - period] {
            return false;
        }
        self.recent[end - LOOK_EVERY..] == self.recent[end - LOOK_EVERY - period..end - period]
    }

    fn count(&self, period: usize) -> usize {
        let pairs = self.recent.iter().rev().zip(self.recent.iter().rev().skip(period));
        pairs.take_while(|(token, earlier)| token == earlier).count()
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
