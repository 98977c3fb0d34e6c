//! Pages of keys and values on the CPU, and the access of a step to them.
//!
//! A page is [layers, kv_heads, (head_dim x PAGE_TOKENS keys, PAGE_TOKENS x head_dim values)]. The pages that a step writes
//! belong to one sequence each: for the time of the step they are apart from the others, so that sequences can be computed
//! side by side while all of them read the pages that they share.
//!
//! Pages lie in slabs.

use super::attention::HeadPage;
use crate::config::DecoderConfig;
use crate::error::Result;
use crate::kv::{PAGE_TOKENS, Page, PageCopy};
use crate::memory::Memory;

/// A slab has room for as many pages as fit into so many bytes, but at least for one.
const SLAB_BYTES: usize = 16 << 20;

/// All pages.
#[derive(Debug)]
pub(crate) struct PageStore {
    slabs: Vec<Memory<f32>>,
    pages_of_a_slab: usize,
    shape: PageShape,
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

    fn page(&self) -> usize {
        self.layers * self.layer()
    }
}

impl PageStore {
    pub fn new(config: &DecoderConfig) -> Self {
        let shape = PageShape { layers: config.layers, kv_heads: config.kv_heads, head_dim: config.head_dim };
        let pages_of_a_slab = (SLAB_BYTES / (shape.page() * size_of::<f32>())).max(1);
        Self { slabs: Vec::new(), pages_of_a_slab, shape }
    }

    /// Makes sure that the pages exist.
    pub fn provide(&mut self, pages: &[Page]) -> Result<()> {
        let wanted = pages.iter().max().map_or(0, |page| page / self.pages_of_a_slab + 1);
        while self.slabs.len() < wanted {
            self.slabs.push(Memory::zeroed(self.pages_of_a_slab * self.shape.page())?);
        }
        Ok(())
    }

    pub fn copy(&mut self, copy: PageCopy) -> Result<()> {
        self.provide(&[copy.from, copy.to])?;
        let mut pages = self.pages();
        let from = pages.take(copy.from);
        pages.take(copy.to).copy_from_slice(from);
        Ok(())
    }

    /// All pages, to be shared out.
    pub fn pages(&mut self) -> Pages<'_> {
        let size = self.shape.page();
        let slabs = self.slabs.iter_mut().flat_map(|slab| slab.chunks_exact_mut(size));
        Pages { pages: slabs.map(Some).collect(), shape: self.shape }
    }
}

/// The pages that nobody writes yet.
pub(crate) struct Pages<'a> {
    pages: Vec<Option<&'a mut [f32]>>,
    shape: PageShape,
}

impl<'a> Pages<'a> {
    fn take(&mut self, page: Page) -> &'a mut [f32] {
        self.pages[page].take().expect("a page that is written belongs to one sequence")
    }

    /// The pages of a sequence from its `first` on, which must be its own.
    pub fn written(&mut self, pages: &[Page], first: usize) -> WrittenPages<'a> {
        WrittenPages { first, pages: pages[first..].iter().map(|&page| self.take(page)).collect() }
    }

    /// The others, for reading.
    pub fn shared(self) -> SharedPages<'a> {
        SharedPages { pages: self.pages.into_iter().map(|page| page.map(|page| &*page)).collect(), shape: self.shape }
    }
}

/// The pages that no sequence of a step writes.
pub(crate) struct SharedPages<'a> {
    pages: Vec<Option<&'a [f32]>>,
    shape: PageShape,
}

/// The pages of one sequence that a step writes.
pub(crate) struct WrittenPages<'a> {
    first: usize,
    pages: Vec<&'a mut [f32]>,
}

/// The keys and values of one sequence during a step.
pub(crate) struct SequencePages<'a> {
    pub shared: &'a SharedPages<'a>,
    pub pages: &'a [Page],
    pub written: WrittenPages<'a>,
}

impl SequencePages<'_> {
    /// One head in the sequence's page `index`.
    pub fn head(&self, index: usize, layer: usize, head: usize) -> HeadPage<'_> {
        let shape = self.shared.shape;
        let page = match index.checked_sub(self.written.first) {
            Some(written) => &*self.written.pages[written],
            None => self.shared.pages[self.pages[index]].expect("what a sequence shares is not written"),
        };
        let start = layer * shape.layer() + head * 2 * shape.half();
        let (keys, values) = page[start..start + 2 * shape.half()].split_at(shape.half());
        HeadPage { keys, values }
    }

    /// Writes one token's keys and values, [kv_heads, head_dim] each.
    pub fn write(&mut self, position: usize, layer: usize, keys: &[f32], values: &[f32]) {
        let shape = self.shared.shape;
        let (half, width) = (shape.half(), shape.head_dim);
        let (page, slot) =
            (&mut self.written.pages[position / PAGE_TOKENS - self.written.first], position % PAGE_TOKENS);
        let heads = page[layer * shape.layer()..].chunks_exact_mut(2 * half);
        for ((block, key), value) in heads.zip(keys.chunks_exact(width)).zip(values.chunks_exact(width)) {
            let (key_block, value_block) = block.split_at_mut(half);
            for (to, &from) in key_block[slot..].iter_mut().step_by(PAGE_TOKENS).zip(key) {
                *to = from;
            }
            value_block[slot * width..][..width].copy_from_slice(value);
        }
    }
}
