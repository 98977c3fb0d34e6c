//! Which KV memory belongs to which sequence: pages of a fixed number of tokens, counted references, copy on write.
//!
//! The ledger knows page numbers and lengths only; what a page looks like is the business of the engine that owns the
//! memory. Forks share pages; the first to append to a shared, partly filled page gets its own copy. A reservation
//! either succeeds for all its inputs or changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::{ModelSpec, SequenceId, StepInput};
use crate::error::{EngineError, Result};

/// Tokens that one page holds.
pub const PAGE_TOKENS: usize = 32;

/// The number of a page of KV memory.
pub(crate) type Page = usize;

/// An order to copy the whole content of one page to another before the step writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageCopy {
    pub from: Page,
    pub to: Page,
}

#[derive(Debug, Default, Clone)]
struct Sequence {
    pages: Vec<Page>,
    length: usize,
}

impl Sequence {
    /// Pages to add, and whether the page to be written first has to be copied.
    fn wants(&self, tokens: usize, is_shared: impl Fn(Page) -> bool) -> (usize, bool) {
        let fresh = (self.length + tokens).div_ceil(PAGE_TOKENS).saturating_sub(self.pages.len());
        let writes_into = self.pages.get(self.length / PAGE_TOKENS);
        (fresh, tokens > 0 && writes_into.is_some_and(|&page| is_shared(page)))
    }
}

/// The book of pages and sequences.
#[derive(Debug, Default)]
pub(crate) struct PageLedger {
    most_pages: Option<usize>,
    references: Vec<u32>,
    /// The lowest is taken first, so that the pages of a sequence tend to follow each other.
    free: BTreeSet<Page>,
    sequences: BTreeMap<SequenceId, Sequence>,
    next_id: u64,
}

impl PageLedger {
    /// A ledger for at most `most_tokens` tokens, rounded up to whole pages.
    pub fn new(most_tokens: Option<usize>) -> Self {
        Self { most_pages: most_tokens.map(|tokens| tokens.div_ceil(PAGE_TOKENS)), ..Self::default() }
    }

    pub fn open(&mut self) -> SequenceId {
        self.insert(Sequence::default())
    }

    pub fn fork(&mut self, source: SequenceId) -> Result<SequenceId> {
        let mut copy = self.sequence(source)?.clone();
        copy.pages.truncate(copy.length.div_ceil(PAGE_TOKENS));
        for &page in &copy.pages {
            self.references[page] += 1;
        }
        Ok(self.insert(copy))
    }

    pub fn close(&mut self, sequence: SequenceId) {
        for page in self.sequences.remove(&sequence).unwrap_or_default().pages {
            self.release(page);
        }
    }

    pub fn length(&self, sequence: SequenceId) -> usize {
        self.sequences.get(&sequence).map_or(0, |sequence| sequence.length)
    }

    /// The pages of a sequence, oldest first; it may hold more than its length needs.
    pub fn pages(&self, sequence: SequenceId) -> &[Page] {
        self.sequences.get(&sequence).map_or(&[], |sequence| &sequence.pages)
    }

    /// Refuses a step that no engine could take: unknown sequences, two inputs for one, no tokens, foreign tokens, too
    /// many positions.
    pub fn check(&self, inputs: &[StepInput<'_>], spec: &ModelSpec) -> Result<()> {
        let mut seen = BTreeSet::new();
        for input in inputs {
            let id = input.sequence;
            let length = self.sequence(id)?.length + input.tokens.len();
            let foreign = input.tokens.iter().find(|&&token| token as usize >= spec.vocab_size);
            let problem = if !seen.insert(id) {
                format!("sequence {} has two inputs in one step", id.0)
            } else if input.tokens.is_empty() {
                format!("sequence {} has an input without tokens", id.0)
            } else if input.outputs > input.tokens.len() {
                format!("sequence {} wants {} outputs of {} tokens", id.0, input.outputs, input.tokens.len())
            } else if let Some(token) = foreign {
                format!("token {token} is outside the vocabulary of {} tokens", spec.vocab_size)
            } else if length > spec.max_positions {
                format!("{length} tokens are more than the model's {} positions", spec.max_positions)
            } else {
                continue;
            };
            return Err(EngineError::Request(problem));
        }
        Ok(())
    }

    /// Makes room for `tokens` more tokens in each sequence and says which pages have to be copied first.
    pub fn reserve(&mut self, wanted: &[(SequenceId, usize)]) -> Result<Vec<PageCopy>> {
        let needed = self.pages_needed(wanted)?;
        if self.most_pages.is_some_and(|most| self.pages_in_use() + needed > most) {
            return Err(EngineError::KvMemoryFull { tokens: self.most_pages.unwrap_or(0) * PAGE_TOKENS });
        }
        Ok(wanted.iter().filter_map(|&(id, tokens)| self.grow(id, tokens)).collect())
    }

    /// Undoes a reservation whose step failed: what it may have written lies beyond the lengths.
    pub fn take_back(&mut self, wanted: &[(SequenceId, usize)], copies: &[PageCopy]) {
        for (id, _) in wanted {
            let Some(sequence) = self.sequences.get_mut(id) else { continue };
            let mut unused = sequence.pages.split_off(sequence.length.div_ceil(PAGE_TOKENS));
            if let Some(page) = sequence.pages.get_mut(sequence.length / PAGE_TOKENS)
                && let Some(copy) = copies.iter().find(|copy| copy.to == *page)
            {
                unused.push(std::mem::replace(page, copy.from));
                self.references[copy.from] += 1;
            }
            unused.into_iter().for_each(|page| self.release(page));
        }
    }

    /// Counts tokens that a step has written.
    pub fn advance(&mut self, sequence: SequenceId, tokens: usize) {
        if let Some(sequence) = self.sequences.get_mut(&sequence) {
            sequence.length += tokens;
        }
    }

    /// Takes the tokens from `length` on back, and the pages that are no longer needed.
    pub fn truncate(&mut self, sequence: SequenceId, length: usize) {
        let Some(found) = self.sequences.get_mut(&sequence).filter(|found| length < found.length) else { return };
        found.length = length;
        for page in found.pages.split_off(length.div_ceil(PAGE_TOKENS)) {
            self.release(page);
        }
    }

    /// Tokens of the pages in use, and of all pages.
    pub fn tokens(&self) -> (usize, Option<usize>) {
        (self.pages_in_use() * PAGE_TOKENS, self.most_pages.map(|most| most * PAGE_TOKENS))
    }

    /// Pages that exist, free ones included: one more than the highest page number.
    pub fn page_count(&self) -> usize {
        self.references.len()
    }

    fn pages_in_use(&self) -> usize {
        self.references.len() - self.free.len()
    }

    fn sequence(&self, id: SequenceId) -> Result<&Sequence> {
        self.sequences.get(&id).ok_or_else(|| EngineError::Request(format!("no sequence {} is open", id.0)))
    }

    fn insert(&mut self, sequence: Sequence) -> SequenceId {
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.sequences.insert(id, sequence);
        id
    }

    /// Pages that the reservation takes; the last owner of a shared page needs no copy.
    fn pages_needed(&self, wanted: &[(SequenceId, usize)]) -> Result<usize> {
        let mut given_up = BTreeMap::<Page, u32>::new();
        let mut needed = 0;
        for &(id, tokens) in wanted {
            let sequence = self.sequence(id)?;
            let is_shared = |page: Page| self.references[page] > 1 + given_up.get(&page).copied().unwrap_or(0);
            let (fresh, copies) = sequence.wants(tokens, is_shared);
            needed += fresh + usize::from(copies);
            if copies {
                *given_up.entry(sequence.pages[sequence.length / PAGE_TOKENS]).or_default() += 1;
            }
        }
        Ok(needed)
    }

    fn grow(&mut self, id: SequenceId, tokens: usize) -> Option<PageCopy> {
        let sequence = self.sequences.get(&id)?;
        let (fresh, copies) = sequence.wants(tokens, |page| self.references[page] > 1);
        let slot = sequence.length / PAGE_TOKENS;
        let copy = copies.then(|| self.sequences[&id].pages[slot]).map(|from| {
            let to = self.take();
            self.release(from);
            PageCopy { from, to }
        });
        let fresh: Vec<Page> = (0..fresh).map(|_| self.take()).collect();
        let sequence = self.sequences.get_mut(&id)?;
        if let Some(copy) = copy {
            sequence.pages[slot] = copy.to;
        }
        sequence.pages.extend(fresh);
        copy
    }

    fn take(&mut self) -> Page {
        let page = self.free.pop_first().unwrap_or_else(|| {
            self.references.push(0);
            self.references.len() - 1
        });
        self.references[page] = 1;
        page
    }

    fn release(&mut self, page: Page) {
        self.references[page] -= 1;
        if self.references[page] == 0 {
            self.free.insert(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(ledger: &mut PageLedger, id: SequenceId, tokens: usize) -> Result<Vec<PageCopy>> {
        let copies = ledger.reserve(&[(id, tokens)])?;
        ledger.advance(id, tokens);
        Ok(copies)
    }

    #[test]
    fn forks_share_pages_until_they_write() {
        let mut ledger = PageLedger::new(None);
        let prompt = ledger.open();
        append(&mut ledger, prompt, PAGE_TOKENS + 5).unwrap();
        let fork = ledger.fork(prompt).unwrap();
        assert_eq!(ledger.tokens().0, 2 * PAGE_TOKENS);
        let shared = ledger.pages(prompt)[1];
        let copies = append(&mut ledger, fork, 1).unwrap();
        assert_eq!(copies, vec![PageCopy { from: shared, to: ledger.pages(fork)[1] }]);
        assert_eq!(ledger.pages(fork)[0], ledger.pages(prompt)[0]);
        assert_eq!(append(&mut ledger, prompt, 1).unwrap(), vec![], "the last owner writes in place");
        assert_eq!(ledger.tokens().0, 3 * PAGE_TOKENS);
    }

    #[test]
    fn a_full_page_is_never_copied() {
        let mut ledger = PageLedger::new(None);
        let prompt = ledger.open();
        append(&mut ledger, prompt, PAGE_TOKENS).unwrap();
        let fork = ledger.fork(prompt).unwrap();
        assert_eq!(append(&mut ledger, fork, 1).unwrap(), vec![]);
    }

    #[test]
    fn a_reservation_succeeds_whole_or_changes_nothing() {
        let mut ledger = PageLedger::new(Some(3 * PAGE_TOKENS));
        let (a, b) = (ledger.open(), ledger.open());
        append(&mut ledger, a, PAGE_TOKENS).unwrap();
        let too_much = ledger.reserve(&[(a, 1), (b, PAGE_TOKENS + 1)]);
        assert!(matches!(too_much, Err(EngineError::KvMemoryFull { tokens }) if tokens == 3 * PAGE_TOKENS));
        assert_eq!((ledger.tokens().0, ledger.pages(a).len(), ledger.pages(b).len()), (PAGE_TOKENS, 1, 0));
        assert!(ledger.reserve(&[(a, 1), (b, PAGE_TOKENS)]).is_ok());
    }

    #[test]
    fn a_reservation_that_is_taken_back_leaves_no_trace() {
        let mut ledger = PageLedger::new(None);
        let a = ledger.open();
        append(&mut ledger, a, 2 * PAGE_TOKENS + 3).unwrap();
        let (b, c) = (ledger.fork(a).unwrap(), ledger.open());
        let state = |ledger: &PageLedger| [a, b, c].map(|id| (ledger.pages(id).to_vec(), ledger.length(id)));
        let (before, references) = (state(&ledger), ledger.references.clone());
        let wanted = [(a, 1), (b, PAGE_TOKENS), (c, 2 * PAGE_TOKENS)];
        let copies = ledger.reserve(&wanted).unwrap();
        assert_eq!((copies.len(), ledger.pages(b).len(), ledger.pages(c).len()), (1, 4, 2));
        ledger.take_back(&wanted, &copies);
        assert_eq!(state(&ledger), before);
        let (old, new) = ledger.references.split_at(references.len());
        assert_eq!((old, new, ledger.free.len()), (&references[..], &[0; 4][..], 4), "a copy, one for b, two for c");
        for id in [a, b, c] {
            ledger.close(id);
        }
        assert!(ledger.references.iter().all(|&count| count == 0));
    }

    #[test]
    fn two_forks_that_write_in_one_step_need_one_copy() {
        let mut ledger = PageLedger::new(Some(2 * PAGE_TOKENS));
        let a = ledger.open();
        append(&mut ledger, a, 3).unwrap();
        let b = ledger.fork(a).unwrap();
        assert_eq!(ledger.reserve(&[(a, 1), (b, 1)]).unwrap().len(), 1);
        assert_ne!(ledger.pages(a), ledger.pages(b));
    }

    #[test]
    fn what_is_taken_back_is_written_anew_and_never_into_shared_pages() {
        let mut ledger = PageLedger::new(None);
        let prompt = ledger.open();
        append(&mut ledger, prompt, PAGE_TOKENS + 5).unwrap();
        let fork = ledger.fork(prompt).unwrap();
        append(&mut ledger, fork, PAGE_TOKENS).unwrap();
        assert_eq!((ledger.length(fork), ledger.pages(fork).len()), (2 * PAGE_TOKENS + 5, 3));
        ledger.truncate(fork, PAGE_TOKENS + 7);
        assert_eq!((ledger.length(fork), ledger.pages(fork).len()), (PAGE_TOKENS + 7, 2));
        assert_eq!(append(&mut ledger, fork, 1).unwrap(), vec![], "its own page is written in place");
        ledger.truncate(fork, PAGE_TOKENS);
        assert_eq!(ledger.pages(fork), &ledger.pages(prompt)[..1]);
        ledger.truncate(fork, 3);
        assert_eq!(append(&mut ledger, fork, 1).unwrap().len(), 1, "a shared page is copied before it is written");
        ledger.truncate(fork, 100);
        ledger.truncate(SequenceId(99), 0);
        assert_eq!((ledger.length(fork), ledger.length(prompt)), (4, PAGE_TOKENS + 5));
        ledger.close(prompt);
        ledger.close(fork);
        assert_eq!(ledger.tokens().0, 0);
    }

    #[test]
    fn closing_gives_pages_back() {
        let mut ledger = PageLedger::new(Some(2 * PAGE_TOKENS));
        let a = ledger.open();
        append(&mut ledger, a, 2 * PAGE_TOKENS).unwrap();
        let fork = ledger.fork(a).unwrap();
        ledger.close(a);
        assert_eq!(ledger.tokens().0, 2 * PAGE_TOKENS);
        ledger.close(fork);
        ledger.close(fork);
        assert_eq!(ledger.tokens().0, 0);
        assert_eq!(ledger.length(fork), 0);
    }
}
