//! Medians and ratios, as a table of Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

use super::loads::{Aim, Figure, Load};

/// By load and broker.
#[derive(Default)]
pub struct Results {
    figures: BTreeMap<(String, String), Vec<f64>>,
    reports: Vec<Value>,
}

impl Results {
    pub fn add(&mut self, load: &str, broker: &str, figure: Option<f64>, report: Value) {
        if let Some(figure) = figure {
            self.figures.entry((load.into(), broker.into())).or_default().push(figure);
        }
        let mut report = report;
        report["name"] = load.into();
        report["of"] = broker.into();
        self.reports.push(report);
    }

    pub fn raw(&self) -> &[Value] {
        &self.reports
    }

    pub fn median(&self, load: &str, broker: &str) -> Option<f64> {
        let mut figures = self.figures.get(&(load.into(), broker.into()))?.clone();
        figures.sort_by(f64::total_cmp);
        let middle = figures.len() / 2;
        Some(if figures.len() % 2 == 1 {
            figures[middle]
        } else {
            (figures[middle - 1] + figures[middle]) / 2.0
        })
    }
}

/// Three significant figures, as far as they say something.
pub fn number(value: Option<f64>) -> String {
    match value {
        None => String::from("-"),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

pub fn markdown(results: &Results, loads: &[&Load], brokers: &[&str]) -> String {
    let mut text = String::new();
    let (ours, peers) = (brokers[0], &brokers[1..]);
    for (figure, title) in [
        (Figure::Cpu, "µs of broker CPU per delivery or connection"),
        (Figure::Memory, "resident bytes per idle connection"),
    ] {
        let rows: Vec<_> = loads.iter().filter(|load| load.figure == figure).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(
            text,
            "| {title} | {} | ratio to rumqttd | ratio to the best peer | aim |",
            brokers.join(" | ")
        );
        let _ = writeln!(text, "|---|{}---|---|---|", "---|".repeat(brokers.len()));
        for load in rows {
            let of = |broker: &str| results.median(load.name, broker);
            let best = peers.iter().filter_map(|peer| of(peer)).min_by(f64::total_cmp);
            let rumqttd = of("rumqttd");
            let ratio = |to: Option<f64>| of(ours).zip(to).map(|(ours, to)| ours / to);
            let cells: Vec<String> = brokers.iter().map(|broker| number(of(broker))).collect();
            let aim = match load.aim {
                Aim::None => String::from("-"),
                Aim::OfRumqttd(part) => format!("{part:.2} of rumqttd"),
                Aim::OfBest(part) => format!("{part:.2} of the best"),
                Aim::Bytes(bytes) => bytes.to_string(),
            };
            let (to_rumqttd, to_best) = (number(ratio(rumqttd)), number(ratio(best)));
            let _ = writeln!(
                text,
                "| {} | {} | {to_rumqttd} | {to_best} | {aim} |",
                load.name,
                cells.join(" | ")
            );
        }
        text.push('\n');
    }
    text
}

/// Replaces what stands between the markers of this name.
pub fn write_between(path: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let old = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let [begin, end] = markers(name);
    let new = between_markers(&old, name, text.trim_end())
        .with_context(|| format!("{} has no lines `{begin}` and `{end}`", path.display()))?;
    fs::write(path, new).with_context(|| path.display().to_string())
}

fn markers(name: &str) -> [String; 2] {
    ["begin", "end"].map(|place| format!("<!-- {name}: {place} -->"))
}

fn between_markers(old: &str, name: &str, new: &str) -> Option<String> {
    let [begin, end] = markers(name);
    let (before, rest) = old.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n{new}\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::loads;

    #[test]
    fn medians_and_ratios() {
        let mut results = Results::default();
        for (broker, figures) in
            [("mqgate", [1.0, 9.0, 0.5]), ("rumqttd", [2.0, 4.0, 5.0]), ("other", [2.0; 3])]
        {
            for figure in figures {
                results.add("pairs-q0", broker, Some(figure), Value::Object(serde_json::Map::new()));
            }
        }
        let text = markdown(&results, &[&loads::ALL[0]], &["mqgate", "rumqttd", "other"]);
        assert!(text.contains("| pairs-q0 | 1.00 | 4.00 | 2.00 | 0.25 | 0.50 | 0.25 of rumqttd |"), "{text}");
        assert_eq!(results.median("pairs-q0", "nobody"), None);
    }

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let old = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n";
        let new = between_markers(old, "x", "new").unwrap();
        assert_eq!(new, old.replace("old", "new"));
        assert_eq!(between_markers(old, "y", "new"), None);
    }
}
