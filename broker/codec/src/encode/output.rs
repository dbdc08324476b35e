//! What a connection has to send next: small packets in one buffer, large payloads by reference.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use super::publish::{EncodedPublish, PublishPatch};
use crate::{EncodeError, Packet, ProtocolVersion};

/// Bytes to be written in order. As a [`Buf`] it fits tokio's `write_buf` and `write_all_buf`, which send
/// all pieces in one vectored write. Has no bound of its own: whoever fills it asks [`Buf::remaining`].
#[derive(Debug, Default)]
pub struct Output {
    /// In front of `tail`; none is empty.
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    /// Sum of the lengths of `pieces`.
    pieces_length: usize,
}

impl Output {
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a packet. On an error nothing is appended.
    pub fn push(&mut self, packet: &Packet, version: ProtocolVersion) -> Result<(), EncodeError> {
        super::encode(packet, version, &mut self.tail)
    }

    /// Appends one receiver's copy of a PUBLISH; a large payload stays shared.
    pub fn push_publish(&mut self, publish: &EncodedPublish, patch: PublishPatch) {
        let payload = publish.write_head(patch, &mut self.tail);
        if !payload.is_empty() {
            self.push_piece(payload.clone());
        }
    }

    /// Where [`PublishParts::write`](super::PublishParts::write) may append.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    /// Takes packets that are encoded already; `bytes` is empty afterwards.
    pub fn take(&mut self, bytes: &mut BytesMut) {
        if self.tail.is_empty() {
            std::mem::swap(&mut self.tail, bytes);
        } else {
            self.tail.extend_from_slice(bytes);
            bytes.clear();
        }
    }

    /// Appends bytes that are encoded already.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
    }

    /// Bytes that it has memory for, and pieces.
    pub fn capacity(&self) -> (usize, usize) {
        (self.tail.capacity(), self.pieces.capacity())
    }

    /// Forgets everything and gives the memory back: an idle connection holds none.
    pub fn release(&mut self) {
        *self = Self::default();
    }

    fn push_piece(&mut self, piece: Bytes) {
        if !self.tail.is_empty() {
            let head = self.tail.split().freeze();
            self.pieces_length += head.len();
            self.pieces.push_back(head);
        }
        self.pieces_length += piece.len();
        self.pieces.push_back(piece);
    }
}

impl Buf for Output {
    fn remaining(&self) -> usize {
        self.pieces_length + self.tail.len()
    }

    fn chunk(&self) -> &[u8] {
        match self.pieces.front() {
            Some(piece) => piece,
            None => &self.tail,
        }
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(piece) = self.pieces.front_mut() {
            if count < piece.len() {
                piece.advance(count);
                self.pieces_length -= count;
                return;
            }
            count -= piece.len();
            self.pieces_length -= piece.len();
            self.pieces.pop_front();
        }
        self.tail.advance(count);
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = Some(&self.tail[..]).filter(|tail| !tail.is_empty());
        let chunks = self.pieces.iter().map(|piece| &piece[..]).chain(tail);
        let mut filled = 0;
        for (slice, chunk) in slices.iter_mut().zip(chunks) {
            *slice = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }
}
