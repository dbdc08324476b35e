//! Many certificates from one file: how it is cut into rows, what a row says, and how rows become records.
//!
//! A file is never in memory as a whole: [`Cutter`] takes it in pieces of any size, and rows are registered in groups.

mod cut;
mod progress;
mod row;
mod run;

pub use self::cut::{Cut, CutError, Cutter, Format, MAX_ROW_BYTES};
pub use self::progress::{About, Imports, KeyError, MOST_IMPORTS, MOST_PROBLEMS, Progress};
pub use self::row::{Head, Row, RowError};
pub use self::run::{Importer, MOST_FAILED, MOST_ROWS, Options, Outcome, Report, RowReport};
