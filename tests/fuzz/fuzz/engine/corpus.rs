//! The inputs that are kept: one file for each target, one input a line, in hexadecimal digits. Shortest first, so
//! that a change shows as the lines it is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the inputs of a target are kept.
pub fn path(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(format!("{target}.hex"))
}

/// None if there is no such file yet.
pub fn read(path: &Path) -> io::Result<Vec<Vec<u8>>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut inputs = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let wrong = |error| {
            let place = format!("{}:{}: not hexadecimal digits: {error}", path.display(), at + 1);
            io::Error::new(io::ErrorKind::InvalidData, place)
        };
        inputs.push(hex::decode(line).map_err(wrong)?);
    }
    Ok(inputs)
}

pub fn write(path: &Path, inputs: &[Vec<u8>]) -> io::Result<()> {
    let mut sorted: Vec<_> = inputs.iter().collect();
    sorted.sort_by_key(|input| (input.len(), *input));
    sorted.dedup();
    let text: String = sorted.into_iter().map(|input| hex::encode(input) + "\n").collect();
    fs::write(path, text)
}
