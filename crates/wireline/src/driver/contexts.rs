//! Compression contexts that the connections of a thread share.

use std::cell::RefCell;

use wireline_proto::deflate::{Compressor, CompressorSettings, ContextPool, Inflater};

/// How many contexts of each kind a thread keeps for whoever needs one. A message takes one for the time of
/// a call; a connection that waits for the rest of a compressed message has one, so more may be in use.
const SPARES: usize = 4;

/// The thread's compression contexts.
#[derive(Debug)]
pub(super) struct Contexts;

#[derive(Default)]
struct Kept {
    inflaters: Vec<Inflater>,
    compressors: Vec<Compressor>,
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
}

impl ContextPool for Contexts {
    fn take_inflater(&self) -> Option<Inflater> {
        KEPT.with_borrow_mut(|kept| kept.inflaters.pop())
    }

    fn keep_inflater(&self, inflater: Inflater) {
        // A thread that ends has no spares any more.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.inflaters.len() < SPARES {
                kept.inflaters.push(inflater);
            }
        });
    }

    fn take_compressor(&self, settings: CompressorSettings) -> Option<Compressor> {
        KEPT.with_borrow_mut(|kept| {
            let fits = |compressor: &Compressor| compressor.settings() == settings;
            let index = kept.compressors.iter().position(fits)?;
            Some(kept.compressors.remove(index))
        })
    }

    fn keep_compressor(&self, compressor: Compressor) {
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            // The one that was idle longest makes room, since nobody may want its settings any more.
            if kept.compressors.len() == SPARES {
                kept.compressors.remove(0);
            }
            kept.compressors.push(compressor);
        });
    }
}

/// Lends one of the thread's compressors to `f`.
pub(crate) fn with_compressor<R>(settings: CompressorSettings, f: impl FnOnce(&mut Compressor) -> R) -> R {
    let kept = Contexts.take_compressor(settings);
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
        assert!(Contexts.take_compressor(other).is_none());
        let taken = std::iter::from_fn(|| Contexts.take_compressor(SETTINGS)).count();
        assert_eq!(taken, SPARES);
    }
}
