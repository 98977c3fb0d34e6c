//! Pages of keys and values on the CPU, and the access of a step to them.
//!
//! A page is [layers, kv_heads, (head_dim x PAGE_TOKENS keys, PAGE_TOKENS x head_dim values)]. The pages that a step writes
//! belong to one sequence each: they are taken out of the store for the time of the step, so that sequences can be computed
//! side by side while all of them read the pages that they share.

use super::attention::HeadPage;
use crate::config::DecoderConfig;
use crate::kv::{PAGE_TOKENS, Page, PageCopy};

/// Numbers of a line of the caches: pages begin with one, since vectors that lie across two lines are slower to read.
const LINE: usize = 64 / size_of::<f32>();

/// All pages.
#[derive(Debug)]
pub(crate) struct PageStore {
    pages: Vec<PageContent>,
    shape: PageShape,
}

/// The memory of a page; none before its first use.
#[derive(Debug, Default)]
struct PageContent {
    memory: Vec<f32>,
    start: usize,
}

impl PageContent {
    fn new(size: usize) -> Self {
        let memory = vec![0.0; size + LINE];
        // `align_offset` may find no offset; then the page is merely slower.
        let start = memory.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Self { memory, start }
    }

    fn values(&self) -> &[f32] {
        &self.memory[self.start..]
    }

    fn values_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..]
    }
}

#[derive(Debug, Clone, Copy)]
struct PageShape {
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl PageShape {
    /// Keys of one head in one page, and as many values.
    fn half(&self) -> usize {
        self.head_dim * PAGE_TOKENS
    }

    fn layer(&self) -> usize {
        self.kv_heads * 2 * self.half()
    }
}

impl PageStore {
    pub fn new(config: &DecoderConfig) -> Self {
        let shape = PageShape { layers: config.layers, kv_heads: config.kv_heads, head_dim: config.head_dim };
        Self { pages: Vec::new(), shape }
    }

    /// Makes sure that the pages exist.
    pub fn provide(&mut self, pages: &[Page]) {
        for &page in pages {
            if self.pages.len() <= page {
                self.pages.resize_with(page + 1, PageContent::default);
            }
            if self.pages[page].memory.is_empty() {
                self.pages[page] = PageContent::new(self.shape.layers * self.shape.layer());
            }
        }
    }

    pub fn copy(&mut self, copy: PageCopy) {
        self.provide(&[copy.to]);
        let mut to = std::mem::take(&mut self.pages[copy.to]);
        let size = self.shape.layers * self.shape.layer();
        to.values_mut()[..size].copy_from_slice(&self.pages[copy.from].values()[..size]);
        self.pages[copy.to] = to;
    }

    /// Takes out the pages of a sequence from its `first` on, which must be its own.
    pub fn take(&mut self, pages: &[Page], first: usize) -> TakenPages {
        let taken = pages[first..].iter().map(|&page| std::mem::take(&mut self.pages[page])).collect();
        TakenPages { first, pages: taken }
    }

    /// Puts pages back that were taken out of the same sequence.
    pub fn put_back(&mut self, pages: &[Page], taken: TakenPages) {
        for (&page, content) in pages[taken.first..].iter().zip(taken.pages) {
            self.pages[page] = content;
        }
    }
}

/// The pages of one sequence that a step writes.
#[derive(Debug)]
pub(crate) struct TakenPages {
    first: usize,
    pages: Vec<PageContent>,
}

/// The keys and values of one sequence during a step.
#[derive(Debug)]
pub(crate) struct SequencePages<'a> {
    pub store: &'a PageStore,
    pub pages: &'a [Page],
    pub taken: TakenPages,
}

impl SequencePages<'_> {
    /// One head in the sequence's page `index`.
    pub fn head(&self, index: usize, layer: usize, head: usize) -> HeadPage<'_> {
        let shape = self.store.shape;
        let content = match index.checked_sub(self.taken.first) {
            Some(taken) => &self.taken.pages[taken],
            None => &self.store.pages[self.pages[index]],
        };
        let start = layer * shape.layer() + head * 2 * shape.half();
        let (keys, values) = content.values()[start..start + 2 * shape.half()].split_at(shape.half());
        HeadPage { keys, values }
    }

    /// Writes one token's keys and values, [kv_heads, head_dim] each.
    pub fn write(&mut self, position: usize, layer: usize, keys: &[f32], values: &[f32]) {
        let shape = self.store.shape;
        let (half, width) = (shape.half(), shape.head_dim);
        let (content, slot) =
            (&mut self.taken.pages[position / PAGE_TOKENS - self.taken.first], position % PAGE_TOKENS);
        let heads = content.values_mut()[layer * shape.layer()..].chunks_exact_mut(2 * half);
        for ((block, key), value) in heads.zip(keys.chunks_exact(width)).zip(values.chunks_exact(width)) {
            let (key_block, value_block) = block.split_at_mut(half);
            for (to, &from) in key_block[slot..].iter_mut().step_by(PAGE_TOKENS).zip(key) {
                *to = from;
            }
            value_block[slot * width..][..width].copy_from_slice(value);
        }
    }
}
