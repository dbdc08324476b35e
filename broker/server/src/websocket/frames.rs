//! WebSocket frames as a stream of bytes, on the server's side.
//!
//! Keeps no buffer: what comes is read into the reader's own memory and unmasked there, what goes is written
//! from the writer's, behind a header of a few bytes. An idle connection costs what this struct is large.

use std::io::{self, Cursor, IoSlice};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// Two bytes, eight of length, four of mask.
const LONGEST_HEADER: usize = 14;
/// Payload of a control frame. [RFC 6455, 5.5]
const LONGEST_CONTROL: usize = 125;
/// Bytes of pongs that may wait for a client that does not take them; more than a control frame.
const ANSWERS: usize = 4096;
/// Slices that go into one vectored write, the frame's header not counted.
const SLICES: usize = 31;

/// What is believed of a client's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    pub frame: u64,
    /// All frames of a message together.
    pub message: u64,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self { frame: 16 << 20, message: 64 << 20 }
    }
}

/// The frames on `S`, as a stream of bytes.
pub struct WebSocket<S> {
    inner: S,
    limits: FrameLimits,
    /// Came with the HTTP request.
    early: Bytes,
    incoming: Incoming,
    outgoing: Outgoing,
}

struct Incoming {
    /// The beginning of a header that is not complete.
    header: [u8; LONGEST_HEADER],
    header_length: u8,
    frame: Frame,
    /// Of the frame.
    left: u64,
    /// Turned so that it begins with the byte for the next of the payload.
    mask: [u8; 4],
    /// Bytes of a message whose last frame has not come.
    message: Option<u64>,
    /// Payload of a control frame that is not complete.
    control: Vec<u8>,
    /// Nothing more is taken: the client has closed, or broken a rule.
    end: Option<End>,
    /// The reader knows.
    told: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Frame {
    Data { is_final: bool },
    Control(Control),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Closed,
    Broken(CloseCode),
}

#[derive(Default)]
struct Outgoing {
    /// Of the data frame that is being written.
    header: Pending,
    /// Payload of it that the writer still owes.
    left: usize,
    /// Control frames that go before the next data frame.
    control: Vec<u8>,
    /// How much of it is.
    written: usize,
    /// Where in it the last pong begins.
    last_pong: usize,
    /// After a close frame there is nothing.
    close: Close,
    unflushed: bool,
}

#[derive(Default, Clone, Copy)]
struct Pending {
    bytes: [u8; 10],
    start: u8,
    end: u8,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Close {
    #[default]
    No,
    Queued,
}

impl<S> WebSocket<S> {
    /// What carries the frames.
    #[cfg(test)]
    pub(crate) const fn inner(&self) -> &S {
        &self.inner
    }

    /// `early` came after the request, before the answer to it.
    pub fn new(inner: S, early: Bytes, limits: FrameLimits) -> Self {
        let incoming = Incoming {
            header: [0; LONGEST_HEADER],
            header_length: 0,
            frame: Frame::Data { is_final: true },
            left: 0,
            mask: [0; 4],
            message: None,
            control: Vec::new(),
            end: None,
            told: false,
        };
        Self { inner, limits, early, incoming, outgoing: Outgoing::default() }
    }
}

impl Incoming {
    /// Takes frames apart. The payload of data frames is moved to the front of `chunk`; says how long it is.
    fn take(&mut self, chunk: &mut [u8], limits: FrameLimits, answers: &mut Outgoing) -> usize {
        let (mut at, mut kept) = (0, 0);
        while at < chunk.len() && self.end.is_none() {
            if self.left == 0 {
                self.header[usize::from(self.header_length)] = chunk[at];
                self.header_length += 1;
                at += 1;
                if usize::from(self.header_length) >= header_length(&self.header)
                    && let Err(code) = self.begin(limits, answers)
                {
                    self.end = Some(End::Broken(code));
                }
                continue;
            }
            let rest = chunk.len() - at;
            let count = usize::try_from(self.left).map_or(rest, |left| left.min(rest));
            let payload = &mut chunk[at..at + count];
            unmask(payload, self.mask);
            self.mask.rotate_left(count % 4);
            match self.frame {
                Frame::Data { .. } => {
                    chunk.copy_within(at..at + count, kept);
                    kept += count;
                }
                Frame::Control(_) => self.control.extend_from_slice(payload),
            }
            at += count;
            self.left -= count as u64;
            if self.left == 0 {
                self.finish(answers);
            }
        }
        kept
    }

    /// A frame's header is complete.
    fn begin(&mut self, limits: FrameLimits, answers: &mut Outgoing) -> Result<(), CloseCode> {
        let length = usize::from(mem::take(&mut self.header_length));
        let mut cursor = Cursor::new(&self.header[..length]);
        let (header, payload) = match FrameHeader::parse(&mut cursor) {
            Ok(Some(parsed)) => parsed,
            Ok(None) | Err(_) => return Err(CloseCode::Protocol),
        };
        // A client masks [RFC 6455, 5.1]; no extension was agreed upon [5.2]; lengths are as short as can be.
        let Some(mask) = header.mask.filter(|_| length == shortest_header(payload)) else {
            return Err(CloseCode::Protocol);
        };
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(CloseCode::Protocol);
        }
        match header.opcode {
            OpCode::Data(kind) => {
                let before = match (kind, self.message) {
                    // MQTT is sent in binary frames. [MQTT-6.0.0-1]
                    (Data::Text, _) => return Err(CloseCode::Unsupported),
                    (Data::Binary, None) => 0,
                    (Data::Continue, Some(before)) => before,
                    (Data::Binary, Some(_)) | (Data::Continue, None) | (Data::Reserved(_), _) => {
                        return Err(CloseCode::Protocol);
                    }
                };
                let message = before.saturating_add(payload);
                if payload > limits.frame || message > limits.message {
                    return Err(CloseCode::Size);
                }
                self.message = Some(message);
                self.frame = Frame::Data { is_final: header.is_final };
            }
            OpCode::Control(Control::Reserved(_)) => return Err(CloseCode::Protocol),
            OpCode::Control(kind) => {
                if !header.is_final || payload > LONGEST_CONTROL as u64 {
                    return Err(CloseCode::Protocol);
                }
                self.frame = Frame::Control(kind);
            }
        }
        (self.left, self.mask) = (payload, mask);
        if payload == 0 {
            self.finish(answers);
        }
        Ok(())
    }

    /// All of a frame is there.
    fn finish(&mut self, answers: &mut Outgoing) {
        match self.frame {
            Frame::Data { is_final: true } => self.message = None,
            Frame::Data { is_final: false } => {}
            Frame::Control(Control::Ping) => answers.pong(&mem::take(&mut self.control)),
            Frame::Control(Control::Close) => {
                let payload = mem::take(&mut self.control);
                self.end = Some(match close_code(&payload) {
                    Ok(code) => {
                        answers.close(code);
                        End::Closed
                    }
                    Err(code) => End::Broken(code),
                });
            }
            Frame::Control(Control::Pong | Control::Reserved(_)) => self.control = Vec::new(),
        }
    }
}

/// How long a header is, by its first two bytes; at least two.
fn header_length(header: &[u8; LONGEST_HEADER]) -> usize {
    // The second byte is 0 until it is there.
    let length = match header[1] & 0x7F {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let mask = if header[1] & 0x80 == 0 { 0 } else { 4 };
    2 + length + mask
}

fn shortest_header(payload: u64) -> usize {
    match payload {
        0..=125 => 6,
        126..=0xFFFF => 8,
        _ => 14,
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let mut words = payload.chunks_exact_mut(4);
    for word in &mut words {
        for (byte, mask) in word.iter_mut().zip(mask) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// What the client's close frame is answered with. [RFC 6455, 5.5.1]
fn close_code(payload: &[u8]) -> Result<CloseCode, CloseCode> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(CloseCode::Normal) } else { Err(CloseCode::Protocol) };
    };
    let code = CloseCode::from(u16::from_be_bytes(*code));
    if !code.is_allowed() {
        return Err(CloseCode::Protocol);
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(CloseCode::Invalid);
    }
    Ok(code)
}

impl Outgoing {
    /// Every ping is answered, unless the client takes no answers: then the last one is [RFC 6455, 5.5.3].
    fn pong(&mut self, payload: &[u8]) {
        if self.close != Close::No {
            return;
        }
        if self.control.len() - self.written > ANSWERS {
            // The answers that wait are many: none of the last one is written yet.
            self.control.truncate(self.last_pong);
        }
        if self.written > ANSWERS {
            self.control.drain(..mem::take(&mut self.written));
        }
        self.last_pong = self.control.len();
        self.push(OpCode::Control(Control::Pong), payload);
    }

    fn close(&mut self, code: CloseCode) {
        if self.close == Close::No {
            self.close = Close::Queued;
            self.push(OpCode::Control(Control::Close), &u16::from(code).to_be_bytes());
        }
    }

    fn push(&mut self, opcode: OpCode, payload: &[u8]) {
        let header = FrameHeader { is_final: true, opcode, ..FrameHeader::default() };
        // Writing to memory does not fail.
        let _ = header.format(payload.len() as u64, &mut self.control);
        self.control.extend_from_slice(payload);
    }

    /// Begins a data frame.
    fn begin(&mut self, length: usize) {
        let opcode = OpCode::Data(Data::Binary);
        let header = FrameHeader { is_final: true, opcode, ..FrameHeader::default() };
        let mut bytes = [0; 10];
        let mut cursor = Cursor::new(&mut bytes[..]);
        // Ten bytes are room for every length.
        let _ = header.format(length as u64, &mut cursor);
        let end = u8::try_from(cursor.position()).unwrap_or_default();
        self.header = Pending { bytes, start: 0, end };
        self.left = length;
    }
}

impl Pending {
    fn rest(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..usize::from(self.end)]
    }

    /// Takes what was written of it off `count`.
    fn advance(&mut self, count: usize) -> usize {
        let own = count.min(self.rest().len());
        self.start += u8::try_from(own).unwrap_or_default();
        count - own
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    /// Writes control frames that wait, between data frames.
    fn poll_control(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outgoing.control.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if self.outgoing.left > 0 {
            return Poll::Pending; // Whoever writes the frame to its end comes by here again.
        }
        while self.outgoing.written < self.outgoing.control.len() {
            let rest = &self.outgoing.control[self.outgoing.written..];
            let count = ready!(Pin::new(&mut self.inner).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.written += count;
            self.outgoing.unflushed = true;
        }
        self.outgoing.written = 0;
        self.outgoing.control = Vec::new();
        Poll::Ready(Ok(()))
    }

    /// Answers pings while nobody writes.
    fn poll_answers(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_control(cx))?;
        if mem::take(&mut self.outgoing.unflushed) {
            match Pin::new(&mut self.inner).poll_flush(cx) {
                Poll::Ready(flushed) => flushed?,
                Poll::Pending => {
                    self.outgoing.unflushed = true;
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// After the end: what still comes is thrown away. A transport that is closed with unread bytes is reset,
    /// and our close frame with it.
    fn poll_rest(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
            if buf.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            buf.set_filled(before);
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.outgoing.left == 0 {
            ready!(self.poll_control(cx))?;
            if self.outgoing.close != Close::No {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let total = slices.iter().take(SLICES).map(|slice| slice.len()).sum();
            if total == 0 {
                return Poll::Ready(Ok(0));
            }
            self.outgoing.begin(total);
        }
        loop {
            let count = {
                let mut all = [IoSlice::new(&[]); SLICES + 1];
                let mut used = 0;
                let header = self.outgoing.header.rest();
                if !header.is_empty() {
                    all[0] = IoSlice::new(header);
                    used = 1;
                }
                let mut left = self.outgoing.left;
                for slice in slices.iter().filter(|slice| !slice.is_empty()) {
                    if left == 0 || used == all.len() {
                        break;
                    }
                    // The writer has more by now than when the frame began: that is for the next one.
                    let part = &slice[..slice.len().min(left)];
                    left -= part.len();
                    all[used] = IoSlice::new(part);
                    used += 1;
                }
                let inner = Pin::new(&mut self.inner);
                match inner.is_write_vectored() {
                    true => ready!(inner.poll_write_vectored(cx, &all[..used]))?,
                    false => ready!(inner.poll_write(cx, &all[0]))?,
                }
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.unflushed = true;
            let payload = self.outgoing.header.advance(count);
            self.outgoing.left -= payload;
            if payload > 0 {
                return Poll::Ready(Ok(payload));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if let Some(end) = this.incoming.end {
                if let End::Broken(code) = end {
                    this.outgoing.close(code);
                }
                // The last frame; whoever does not take it does without.
                let said = this.poll_answers(cx);
                if this.incoming.told {
                    return this.poll_rest(cx, buf);
                }
                if end == End::Closed && said.is_pending() && this.outgoing.left == 0 {
                    return Poll::Pending;
                }
                this.incoming.told = true;
                return Poll::Ready(match end {
                    End::Broken(code) => {
                        let what = format!("broken WebSocket frame: {code}");
                        Err(io::Error::new(io::ErrorKind::InvalidData, what))
                    }
                    End::Closed => Ok(()),
                });
            }
            if let Poll::Ready(Err(error)) = this.poll_answers(cx) {
                return Poll::Ready(Err(error));
            }
            let before = buf.filled().len();
            if this.early.has_remaining() {
                let count = this.early.len().min(buf.remaining());
                buf.put_slice(&this.early[..count]);
                this.early.advance(count);
                if this.early.is_empty() {
                    this.early = Bytes::new();
                }
            } else {
                ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            }
            let chunk = &mut buf.filled_mut()[before..];
            if chunk.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let kept = this.incoming.take(chunk, this.limits, &mut this.outgoing);
            buf.set_filled(before + kept);
            if kept > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_frame(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_frame(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.outgoing.left == 0 {
            ready!(this.poll_control(cx))?;
        }
        ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        this.outgoing.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // In the middle of a frame there is no place for another.
        if this.outgoing.left == 0 {
            this.outgoing.close(CloseCode::Normal);
            ready!(this.poll_control(cx))?;
        }
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
