//! How far a bundle is read, for who waits at a terminal; silent elsewhere.

use crate::output;
use std::cell::Cell;
use std::io::IsTerminal as _;
use std::rc::Rc;

/// Of so many bytes.
pub(super) struct Progress {
    total: u64,
    read: Rc<Cell<u64>>,
    shown: bool,
}

/// Whole percents, never above 100.
fn percent(read: u64, total: u64) -> u64 {
    read.saturating_mul(100).checked_div(total).map_or(100, |p| p.min(100))
}

impl Progress {
    pub(super) fn new(total: u64) -> Self {
        let shown = total > 0 && std::io::stderr().is_terminal();
        Self { total, read: Rc::new(Cell::new(0)), shown }
    }

    /// What counts the bytes.
    pub(super) fn reader(&self) -> Rc<dyn Fn(u64)> {
        let (read, total, shown) = (self.read.clone(), self.total, self.shown);
        Rc::new(move |n| {
            let before = percent(read.get(), total);
            read.set(read.get().saturating_add(n));
            let now = percent(read.get(), total);
            if shown && now != before {
                output::progress(&format!("images {now} % of {}", output::size(total)));
            }
        })
    }

    pub(super) fn end(&self) {
        if self.shown {
            output::progress("");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_from_nothing_to_all_and_never_beyond() {
        assert_eq!([percent(0, 10), percent(5, 10), percent(11, 10), percent(0, 0)], [0, 50, 100, 100]);
        let p = Progress::new(100);
        p.reader()(30);
        p.reader()(30);
        assert_eq!(p.read.get(), 60);
    }
}
