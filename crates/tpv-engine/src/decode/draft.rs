//! Draft tokens: what a sample may write next, guessed from what was written before.
//!
//! The guesses are read together with the last token, in one step, and each stands only if it is the token that the sample
//! chooses there anyway, with its own control and its own draw. So tokens and states are those of a loop without drafts, to
//! the bit where an engine's rows do not depend on their neighbours; a right guess saves a step, a wrong one costs a row.
//! (Speculative decoding with a table of n-grams as the draft model: Leviathan et al. 2023, arXiv:2211.17192; Yang et al.
//! 2023, arXiv:2304.04487.)

use std::collections::HashMap;

/// Tokens that must have stood before a token for it to be guessed: so many at least.
const SHORTEST: usize = 3;

/// And so many at most; of longer matches these last ones count.
const LONGEST: usize = 5;

/// N-grams after which a table begins anew (some 13 MB).
const MOST_NGRAMS: usize = 1 << 18;

/// Stands in an n-gram where it is shorter than the longest.
const NO_TOKEN: u32 = u32::MAX;

/// Draft tokens of a sample's first guess.
const FIRST_DRAFT: usize = 2;

/// How much is guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DraftLimits {
    /// Most tokens guessed for a sample in one step; 0 guesses none.
    pub tokens: usize,
    /// Rows of a step, guesses included, up to which it takes hardly longer than with one row for each sample: beyond them
    /// nothing is guessed.
    pub rows: usize,
    /// Whether samples guess from what others wrote, of other prompts too. Their speed then tells something about that.
    pub shared: bool,
}

/// How many tokens were guessed, and how many of them came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DraftCounts {
    /// Guesses.
    pub guessed: u64,
    /// Guesses that were right.
    pub right: u64,
}

/// The last tokens of a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context([u32; LONGEST]);

impl Context {
    /// Of a text that begins.
    pub fn new() -> Self {
        Self([NO_TOKEN; LONGEST])
    }

    pub fn push(&mut self, token: u32) {
        self.0.rotate_left(1);
        self.0[LONGEST - 1] = token;
    }

    /// The last `count` tokens, if there are so many.
    fn ngram(&self, count: usize) -> Option<[u32; LONGEST]> {
        let mut ngram = [NO_TOKEN; LONGEST];
        ngram[LONGEST - count..].copy_from_slice(&self.0[LONGEST - count..]);
        (ngram[LONGEST - count] != NO_TOKEN).then_some(ngram)
    }
}

/// Which token came last after an n-gram.
#[derive(Debug, Default)]
pub(super) struct Ngrams(HashMap<[u32; LONGEST], u32>);

impl Ngrams {
    /// Learns that `token` followed `context`.
    pub fn learn(&mut self, context: &Context, token: u32) {
        if self.0.len() >= MOST_NGRAMS {
            self.0.clear();
        }
        let ngrams = (SHORTEST..=LONGEST).filter_map(|count| context.ngram(count));
        self.0.extend(ngrams.map(|ngram| (ngram, token)));
    }

    /// What may follow: by the longest n-gram that is known.
    fn next(&self, context: &Context) -> Option<u32> {
        (SHORTEST..=LONGEST).rev().find_map(|count| self.0.get(&context.ngram(count)?).copied())
    }

    /// Appends what may follow to `draft`, `most` tokens at most.
    pub fn guess(&self, mut context: Context, most: usize, draft: &mut Vec<u32>) {
        for _ in 0..most {
            let Some(token) = self.next(&context) else { break };
            context.push(token);
            draft.push(token);
        }
    }
}

/// The guesses of one sample.
#[derive(Debug)]
pub(super) struct Drafter {
    context: Context,
    /// Tokens to guess: one more than were right the last time.
    length: usize,
    /// What it guesses from, where samples do not share that.
    own: Option<Ngrams>,
}

impl Drafter {
    /// For a sample whose text begins.
    pub fn new(limits: DraftLimits) -> Self {
        let own = (!limits.shared).then(Ngrams::default);
        Self { context: Context::new(), length: FIRST_DRAFT, own }
    }

    /// Takes tokens that the text goes on with.
    pub fn learn(&mut self, shared: &mut Ngrams, tokens: impl IntoIterator<Item = u32>) {
        let ngrams = self.own.as_mut().unwrap_or(shared);
        for token in tokens {
            ngrams.learn(&self.context, token);
            self.context.push(token);
        }
    }

    /// Appends up to `most` tokens to `input`: those that will be forced, and what may follow them.
    pub fn guess(&self, shared: &Ngrams, forced: impl Iterator<Item = u32>, most: usize, input: &mut Vec<u32>) {
        let (mut context, most, before) = (self.context, most.min(self.length), input.len());
        input.extend(forced.take(most).inspect(|&token| context.push(token)));
        let most = most - (input.len() - before);
        self.own.as_ref().unwrap_or(shared).guess(context, most, input);
    }

    /// Takes how many of the guesses were right.
    pub fn note(&mut self, guessed: usize, right: usize) {
        if guessed > 0 {
            self.length = right + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(tokens: &[u32]) -> Context {
        let mut context = Context::new();
        tokens.iter().for_each(|&token| context.push(token));
        context
    }

    fn learnt(text: &[u32]) -> Ngrams {
        let (mut ngrams, mut context) = (Ngrams::default(), Context::new());
        for &token in text {
            ngrams.learn(&context, token);
            context.push(token);
        }
        ngrams
    }

    fn guessed(ngrams: &Ngrams, after: &[u32], most: usize) -> Vec<u32> {
        let mut draft = Vec::new();
        ngrams.guess(context(after), most, &mut draft);
        draft
    }

    #[test]
    fn what_followed_the_same_tokens_is_guessed() {
        let ngrams = learnt(&[1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(guessed(&ngrams, &[9, 1, 2, 3], 3), [4, 5, 6]);
        assert_eq!(guessed(&ngrams, &[1, 2, 3], 9), [4, 5, 6, 7], "until nothing is known");
        assert!(guessed(&ngrams, &[9, 2, 3], 3).is_empty(), "two tokens are too few");
        assert!(guessed(&ngrams, &[2, 3], 3).is_empty(), "and so is a text of two");
        assert!(guessed(&ngrams, &[1, 2, 3], 0).is_empty());
    }

    #[test]
    fn the_longest_match_counts_and_of_equal_ones_the_latest() {
        let ngrams = learnt(&[7, 1, 2, 3, 4, 8, 1, 2, 3, 5]);
        assert_eq!(guessed(&ngrams, &[1, 2, 3], 1), [5]);
        assert_eq!(guessed(&ngrams, &[7, 1, 2, 3], 1), [4]);
    }

    #[test]
    fn a_table_is_bounded() {
        let mut ngrams = Ngrams::default();
        let mut now = Context::new();
        for token in 0..MOST_NGRAMS as u32 {
            ngrams.learn(&now, token);
            now.push(token);
        }
        assert!(ngrams.0.len() < MOST_NGRAMS + LONGEST);
    }

    #[test]
    fn guesses_grow_with_what_is_right() {
        let mut shared = Ngrams::default();
        let mut drafter = Drafter::new(DraftLimits { tokens: 9, rows: 9, shared: true });
        drafter.learn(&mut shared, [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3]);
        let guessed = |drafter: &Drafter, forced: &[u32]| {
            let mut input = vec![3];
            drafter.guess(&shared, forced.iter().copied(), 9, &mut input);
            input
        };
        assert_eq!(guessed(&drafter, &[]), [3, 4, 5]);
        drafter.note(2, 2);
        assert_eq!(guessed(&drafter, &[]), [3, 4, 5, 6]);
        assert_eq!(guessed(&drafter, &[4]), [3, 4, 5, 6], "what is forced is known");
        assert_eq!(guessed(&drafter, &[9, 9, 9, 9]), [3, 9, 9, 9]);
        drafter.note(3, 0);
        drafter.note(0, 0);
        assert_eq!(guessed(&drafter, &[]), [3, 4], "where nothing was guessed nothing is learnt");
    }

    #[test]
    fn a_sample_may_keep_its_text_to_itself() {
        let mut shared = Ngrams::default();
        let mut drafter = Drafter::new(DraftLimits { tokens: 9, rows: 9, shared: false });
        drafter.learn(&mut shared, [1, 2, 3, 4, 1, 2, 3]);
        assert!(shared.0.is_empty());
        let mut input = Vec::new();
        drafter.guess(&shared, std::iter::empty(), 1, &mut input);
        assert_eq!(input, [4]);
    }
}
