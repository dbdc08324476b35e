//! Lengths of time as people write them: `10s`, `1h 30m`.

use std::time::Duration;

/// A number and a unit out of `ms`, `s`, `m`, `h`, `d`; several may follow each other. `0` needs no unit.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (count, after): (u64, _) = (rest[..end].parse().ok()?, rest[end..].trim_start());
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let unit: u64 = match &after[..end] {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        millis = count.checked_mul(unit).and_then(|part| millis.checked_add(part))?;
        rest = after[end..].trim_start();
    }
    Some(Duration::from_millis(millis))
}
