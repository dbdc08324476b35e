//! `cargo xtask curves`: how cost grows with the number of subscriptions, subscribers, levels, retained messages
//! and connections: measured by the benchmarks of `protocol` and `server`, drawn as SVG, each figure a file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::process::{cargo, say, shown, step};

#[derive(clap::Args)]
pub struct Options {
    /// No more than 10,000 of anything.
    #[arg(long)]
    quick: bool,
}

/// One figure, and which curves are in it.
struct Figure {
    file: &'static str,
    title: &'static str,
    x: &'static str,
    y: &'static str,
    curves: &'static [&'static str],
}

const FIGURES: &[Figure] = &[
    Figure {
        file: "matching.svg",
        title: "Finding the subscribers of a topic",
        x: "subscriptions",
        y: "ns for one topic",
        curves: &[
            "match-exact-warm",
            "match-exact-cold",
            "match-plus-cold",
            "match-hash-cold",
            "match-overlapping-warm",
            "match-overlapping-cold",
        ],
    },
    Figure {
        file: "subscribing.svg",
        title: "Entering a subscription",
        x: "subscriptions",
        y: "ns each",
        curves: &["subscribe-exact", "subscribe-plus", "subscribe-hash", "subscribe-overlapping"],
    },
    Figure {
        file: "memory.svg",
        title: "Memory of subscriptions and retained messages",
        x: "subscriptions or retained messages",
        y: "bytes each",
        curves: &["memory-exact", "memory-plus", "memory-hash", "memory-overlapping", "memory-retained"],
    },
    Figure {
        file: "fan-out.svg",
        title: "Many subscribers of one topic, and deep topics",
        x: "subscribers or levels",
        y: "ns for each",
        curves: &["match-subscribers", "match-levels"],
    },
    Figure {
        file: "retained.svg",
        title: "Retained messages",
        x: "retained messages",
        y: "ns each",
        curves: &["retain", "sweep-retained"],
    },
    Figure {
        file: "connections.svg",
        title: "Connections, over a transport in memory",
        x: "connections",
        y: "bytes, or ns, for each",
        curves: &["memory-connection", "connect-in-memory", "ping-connection", "deliver-connection"],
    },
];

/// What is measured: crate and benchmark.
const BENCHES: &[(&str, &str)] = &[("mqgate-protocol", "cost"), ("mqgate-server", "connections")];

type Curves = BTreeMap<String, Vec<(f64, f64)>>;

pub fn run(options: &Options) -> anyhow::Result<()> {
    step("measuring (some minutes)");
    let mut curves = Curves::new();
    for (package, bench) in BENCHES {
        let mut command = cargo();
        command.args(["bench", "--locked", "-p", package, "--bench", bench]);
        if options.quick {
            command.args(["--", "--quick"]);
        }
        let line = shown(&command);
        let output = command.stderr(std::process::Stdio::inherit()).output().context(line.clone())?;
        if !output.status.success() {
            bail!("`{line}` failed ({})", output.status);
        }
        parse(&String::from_utf8_lossy(&output.stdout), &mut curves)?;
    }
    let folder = crate::root().join("docs/curves");
    fs::create_dir_all(&folder)?;
    for figure in FIGURES {
        fs::write(folder.join(figure.file), draw(figure, &curves))?;
        say(&format!("docs/curves/{}", figure.file));
    }
    for (name, points) in &curves {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x}: {y}")).collect();
        say(&format!("{name:24} {}", points.join("  ")));
    }
    Ok(())
}

fn parse(text: &str, curves: &mut Curves) -> anyhow::Result<()> {
    for line in text.lines().filter(|line| line.starts_with('{')) {
        let point: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let (Some(curve), Some(x), Some(y)) =
            (point["curve"].as_str(), point["x"].as_f64(), point["y"].as_f64())
        else {
            bail!("a point without curve, x and y: {line}");
        };
        curves.entry(curve.to_owned()).or_default().push((x, y));
    }
    Ok(())
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
const COLORS: [&str; 6] = ["#0b6e99", "#d9730d", "#0f7b6c", "#ad1a72", "#6940a5", "#64473a"];

/// Both axes are logarithmic, in whole powers of ten.
struct Axis {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone, start: f64, end: f64) -> Self {
        let least = values.clone().fold(f64::INFINITY, f64::min).max(1.0);
        let most = values.fold(1.0, f64::max);
        let from = least.log10().floor();
        Self { from, to: most.log10().ceil().max(from + 1.0), start, end }
    }

    fn place(&self, value: f64) -> f64 {
        let part = (value.max(1.0).log10() - self.from) / (self.to - self.from);
        self.start + part * (self.end - self.start)
    }

    fn powers(&self) -> impl Iterator<Item = i32> + use<> {
        self.from as i32..=self.to as i32
    }
}

fn draw(figure: &Figure, curves: &Curves) -> String {
    let shown: Vec<(&str, &Vec<(f64, f64)>)> =
        figure.curves.iter().filter_map(|name| Some((*name, curves.get(*name)?))).collect();
    let points = || shown.iter().flat_map(|(_, points)| points.iter());
    let x = Axis::over(points().map(|point| point.0), LEFT, WIDTH - RIGHT);
    let y = Axis::over(points().map(|point| point.1), HEIGHT - BOTTOM, TOP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">
<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>
<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{}</text>
",
        figure.title
    );
    for power in x.powers() {
        let at = x.place(10_f64.powi(power));
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {TOP}V{}\" stroke=\"#ddd\"/><text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 16.0,
            power_of_ten(power)
        );
    }
    for power in y.powers() {
        let at = y.place(10_f64.powi(power));
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {at:.1}H{}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            power_of_ten(power)
        );
    }
    for (number, (name, points)) in shown.iter().enumerate() {
        let color = COLORS[number % COLORS.len()];
        let line: Vec<String> =
            points.iter().map(|point| format!("{:.1},{:.1}", x.place(point.0), y.place(point.1))).collect();
        let label = TOP + 16.0 * (number as f64 + 1.0);
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/><text x=\"{}\" y=\"{label}\" fill=\"{color}\">{name}</text>",
            line.join(" "),
            WIDTH - RIGHT + 10.0
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{}\">{} (across), {} (up)</text>\n</svg>",
        HEIGHT - 12.0,
        figure.x,
        figure.y
    );
    svg
}

fn power_of_ten(power: i32) -> String {
    match power {
        0..=2 => 10_i32.pow(power as u32).to_string(),
        3..=5 => format!("{}k", 10_i32.pow(power as u32 - 3)),
        _ => format!("{}M", 10_i32.pow(power.clamp(6, 9) as u32 - 6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_holds_its_curves() {
        let text = "noise\n{\"curve\":\"retain\",\"x\":1,\"y\":10.0}\n{\"curve\":\"retain\",\"x\":100,\"y\":1000.0}\n";
        let mut curves = Curves::new();
        parse(text, &mut curves).unwrap();
        assert_eq!(curves["retain"], [(1.0, 10.0), (100.0, 1000.0)]);
        let figure = FIGURES.iter().find(|figure| figure.file == "retained.svg").unwrap();
        let svg = draw(figure, &curves);
        assert!(svg.contains("points=\"70.0,350.0 530.0,40.0\""), "{svg}");
        assert!(svg.contains(">retain</text>") && !svg.contains(">sweep-retained</text>"));
        assert!(parse("{\"curve\":1}", &mut curves).is_err());
    }

    #[test]
    fn numbers_are_short() {
        let shown: Vec<String> = [0, 2, 3, 5, 6].into_iter().map(power_of_ten).collect();
        assert_eq!(shown, ["1", "100", "1k", "100k", "1M"]);
    }
}
