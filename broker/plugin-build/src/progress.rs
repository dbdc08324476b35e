//! What a long build says meanwhile: lines through whoever asked for the build, and below them a bar on
//! standard error where that is a terminal. Knows nothing about building.

use std::cell::RefCell;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

pub struct Progress<'a> {
    say: &'a dyn Fn(&str),
    /// The bar being shown, if any, and the total it counts to (0 for a spinner).
    bar: RefCell<Option<(u64, ProgressBar)>>,
}

impl<'a> Progress<'a> {
    pub fn new(say: &'a dyn Fn(&str)) -> Self {
        Self { say, bar: RefCell::new(None) }
    }

    /// A new step, one line.
    pub fn step(&self, line: &str) {
        self.clear();
        (self.say)(line);
    }

    /// What is being done within the step. Shown while it is true, and gone.
    pub fn detail(&self, text: &str) {
        let spinner = || {
            let bar = ProgressBar::new_spinner().with_style(style("  {spinner} {wide_msg}"));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        };
        self.shown(0, spinner).set_message(text.to_owned());
    }

    /// How far a transfer is.
    pub fn bytes(&self, done: u64, total: u64) {
        let template = "  {bar:40} {percent:>3}% of {total_bytes}, {binary_bytes_per_sec}";
        self.shown(total, || ProgressBar::new(total).with_style(style(template)))
            .set_position(done.min(total));
    }

    fn shown(&self, total: u64, create: impl FnOnce() -> ProgressBar) -> ProgressBar {
        if self.bar.borrow().as_ref().is_some_and(|(shown, _)| *shown != total) {
            self.clear();
        }
        self.bar.borrow_mut().get_or_insert_with(|| (total, create())).1.clone()
    }

    fn clear(&self) {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are well formed")
}
