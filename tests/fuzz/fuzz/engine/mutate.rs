//! How one input becomes another.

use fastrand::Rng;

/// Numbers at which code turns.
const TURNS: [u64; 22] = [
    0,
    1,
    2,
    4,
    7,
    8,
    16,
    31,
    32,
    64,
    100,
    127,
    128,
    129,
    255,
    256,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFF_FFFF,
    0xFFFF_FFFF,
    u64::MAX,
];

pub struct Mutator<'a> {
    pub rng: &'a mut Rng,
    /// Words of the format.
    pub dictionary: &'a [&'a [u8]],
    /// What was compared when the input was run.
    pub compared: &'a [(u64, u64, u8)],
    /// Longest input.
    pub longest: usize,
}

impl Mutator<'_> {
    /// Changes `data` in one to sixteen places; `other` is another input that did something.
    pub fn mutate(&mut self, data: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..1 << self.rng.u32(0..5) {
            self.step(data, other);
        }
        data.truncate(self.longest);
    }

    fn step(&mut self, data: &mut Vec<u8>, other: &[u8]) {
        if data.is_empty() {
            data.push(self.rng.u8(..));
        }
        let at = self.rng.usize(0..data.len());
        match self.rng.u32(0..16) {
            0 | 1 => data[at] ^= 1 << self.rng.u32(0..8),
            2 => data[at] = self.rng.u8(..),
            3 => data[at] = data[at].wrapping_add(self.rng.u8(1..17)),
            4 => data[at] = data[at].wrapping_sub(self.rng.u8(1..17)),
            5 | 6 => {
                let number = TURNS[self.rng.usize(0..TURNS.len())];
                let width = 1 << self.rng.u32(0..4);
                overwrite(data, at, &bytes_of(number, width, self.rng.bool()));
            }
            7 => {
                let piece: Vec<_> = (0..self.rng.usize(1..9)).map(|_| self.rng.u8(..)).collect();
                insert(data, at, &piece);
            }
            8 => {
                let end = (at + self.rng.usize(1..=16)).min(data.len());
                data.drain(at..end);
            }
            9 => {
                let end = (at + self.rng.usize(1..=64)).min(data.len());
                let piece = data[at..end].to_vec();
                let to = self.rng.usize(0..=data.len());
                match self.rng.bool() {
                    true => insert(data, to, &piece),
                    false => overwrite(data, to, &piece),
                }
            }
            10 => {
                // Many of the same.
                let piece = vec![data[at]; self.rng.usize(2..=64)];
                insert(data, at, &piece);
            }
            11 | 12 if !self.dictionary.is_empty() => {
                let word = self.dictionary[self.rng.usize(0..self.dictionary.len())];
                match self.rng.bool() {
                    true => insert(data, at, word),
                    false => overwrite(data, at, word),
                }
            }
            13 if !other.is_empty() => {
                let from = self.rng.usize(0..other.len());
                let end = (from + self.rng.usize(1..=other.len())).min(other.len());
                match self.rng.bool() {
                    true => insert(data, at, &other[from..end]),
                    false => overwrite(data, at, &other[from..end]),
                }
            }
            14 => data.truncate(at),
            _ => self.meet(data),
        }
    }

    /// Puts in what the input was compared with.
    pub fn meet(&mut self, data: &mut Vec<u8>) {
        if self.compared.is_empty() {
            return;
        }
        let (left, right, width) = self.compared[self.rng.usize(0..self.compared.len())];
        let (from, to) = if self.rng.bool() { (left, right) } else { (right, left) };
        // What is compared as four bytes may stand there as one or two.
        let widths = [1, 2, 4, 8].into_iter().filter(|narrow| *narrow <= usize::from(width));
        for width in widths.rev() {
            let fits = |number: u64| width == 8 || number >> (8 * width) == 0;
            if !fits(from) || !fits(to) {
                continue;
            }
            for big in [true, false] {
                let (from, to) = (bytes_of(from, width, big), bytes_of(to, width, big));
                let places: Vec<_> = data
                    .windows(width)
                    .enumerate()
                    .filter(|(_, there)| *there == from)
                    .map(|(at, _)| at)
                    .collect();
                if !places.is_empty() {
                    return overwrite(data, places[self.rng.usize(0..places.len())], &to);
                }
            }
        }
    }
}

fn bytes_of(number: u64, width: usize, big: bool) -> Vec<u8> {
    match big {
        true => number.to_be_bytes()[8 - width..].to_vec(),
        false => number.to_le_bytes()[..width].to_vec(),
    }
}

fn insert(data: &mut Vec<u8>, at: usize, piece: &[u8]) {
    let at = at.min(data.len());
    data.splice(at..at, piece.iter().copied());
}

fn overwrite(data: &mut Vec<u8>, at: usize, piece: &[u8]) {
    let at = at.min(data.len());
    let end = (at + piece.len()).min(data.len());
    data.splice(at..end, piece.iter().copied());
}
