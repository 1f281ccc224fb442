//! Compression contexts that the connections of a thread share.

use std::{cell::RefCell, collections::VecDeque};

use wireline_proto::deflate::{Compressor, CompressorSettings, ContextPool, Inflater};

/// How many contexts of each kind a thread keeps for whoever needs one. A message takes one for the time of
/// a call; a connection that waits for the rest of a compressed message has one, so more may be in use.
const SPARES: usize = 4;

/// How many connections with context takeover find the very compressor again that they used last, so that
/// it need not be primed with their window: 160 KB each with a server's defaults, 20 MB a thread.
const MOST_OWNED: usize = 128;

/// Messages that are compressed until a compressor which its connection has not used for so long goes to
/// another. Many times [`MOST_OWNED`]: where more connections than that take turns, those that have a
/// compressor keep it.
const PATIENCE: u64 = 4096;

/// The thread's compression contexts.
#[derive(Debug)]
pub(super) struct Contexts;

#[derive(Default)]
struct Kept {
    inflaters: Vec<Inflater>,
    compressors: Vec<Compressor>,
    /// By when they were used, the one that was idle longest first.
    owned: VecDeque<Owned>,
    uses: u64,
}

struct Owned {
    owner: u64,
    last_use: u64,
    compressor: Compressor,
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
}

impl ContextPool for Contexts {
    fn take_inflater(&self) -> Option<Inflater> {
        KEPT.with_borrow_mut(|kept| kept.inflaters.pop())
    }

    fn keep_inflater(&self, inflater: Inflater) {
        KEPT.with_borrow_mut(|kept| {
            if kept.inflaters.len() < SPARES {
                kept.inflaters.push(inflater);
            }
        });
    }

    fn take_compressor(&self, settings: CompressorSettings, owner: Option<u64>) -> Option<Compressor> {
        KEPT.with_borrow_mut(|kept| {
            kept.uses += 1;
            let owned = owner.and_then(|owner| kept.take_owned(owner));
            owned.filter(|owned| owned.settings() == settings).or_else(|| kept.take_spare(settings))
        })
    }

    fn keep_compressor(&self, compressor: Compressor) {
        KEPT.with_borrow_mut(|kept| kept.keep(compressor));
    }
}

impl Kept {
    /// The owner's own, or one that its owner has left alone for long.
    fn take_owned(&mut self, owner: u64) -> Option<Compressor> {
        let index = self.owned.iter().position(|owned| owned.owner == owner).or_else(|| {
            let oldest = self.owned.front()?;
            (self.owned.len() == MOST_OWNED && oldest.last_use + PATIENCE < self.uses).then_some(0)
        })?;
        self.owned.remove(index).map(|owned| owned.compressor)
    }

    fn take_spare(&mut self, settings: CompressorSettings) -> Option<Compressor> {
        let index = self.compressors.iter().position(|compressor| compressor.settings() == settings)?;
        Some(self.compressors.remove(index))
    }

    fn keep(&mut self, compressor: Compressor) {
        match compressor.owner() {
            Some(owner) if self.owned.len() < MOST_OWNED => {
                self.owned.push_back(Owned { owner, last_use: self.uses, compressor });
            }
            _ => {
                // The one that was idle longest makes room, since nobody may want its settings any more.
                if self.compressors.len() == SPARES {
                    self.compressors.remove(0);
                }
                self.compressors.push(compressor);
            }
        }
    }
}

/// Lends one of the thread's compressors to `f`.
pub(crate) fn with_compressor<R>(settings: CompressorSettings, f: impl FnOnce(&mut Compressor) -> R) -> R {
    let kept = Contexts.take_compressor(settings, None);
    let mut compressor = kept.unwrap_or_else(|| Compressor::new(settings));
    let result = f(&mut compressor);
    Contexts.keep_compressor(compressor);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: CompressorSettings = CompressorSettings { level: 1, window_bits: 9, memory_level: 1 };

    #[test]
    fn spares_are_few_and_go_by_their_settings() {
        for _ in 0..2 * SPARES {
            Contexts.keep_compressor(Compressor::new(SETTINGS));
        }
        let other = CompressorSettings { level: 2, ..SETTINGS };
        assert!(Contexts.take_compressor(other, None).is_none());
        let taken = std::iter::from_fn(|| Contexts.take_compressor(SETTINGS, Some(7))).count();
        assert_eq!(taken, SPARES);
    }
}
