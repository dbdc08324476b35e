//! Records to a syslog collector: RFC 5424 over TLS (RFC 5425), or over TCP with the same framing (RFC 6587, 3.4.1).
//!
//! Syslog has no answers: what is on its way when a connection breaks is lost without anybody knowing. So a batch counts as
//! safe when it was sent and the other side has not hung up by then; a collector that loses what it took is not found out.

use std::pin::Pin;

use anyhow::Result;
use mqgate_client::{ConnectOptions, Stream, Transport};
use mqgate_server::audit::sinks::{Format, Item, Outlet, OutletError, OutletFuture, format};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bridge::settings::Address;
use crate::config::model::AuditSink;

pub struct SyslogOutlet {
    options: ConnectOptions,
    format: Format,
    hostname: String,
    stream: tokio::sync::Mutex<Option<Box<dyn Stream>>>,
}

impl SyslogOutlet {
    /// Reads files.
    pub fn new(address: &Address, sink: &AuditSink, format: Format) -> Result<Self> {
        let mut options = ConnectOptions::new(address.host.as_str(), address.port);
        options.connect_timeout = sink.timeout.0;
        if address.tls {
            options.tls = Some(super::tls_options(&sink.tls)?);
        }
        let hostname = match &sink.hostname {
            Some(name) => name.clone(),
            None => {
                nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default()
            }
        };
        // RFC 5424: printable ASCII, at most 255.
        let hostname: String = hostname.chars().filter(char::is_ascii_graphic).take(255).collect();
        let hostname = if hostname.is_empty() { String::from("-") } else { hostname };
        Ok(Self { options, format, hostname, stream: tokio::sync::Mutex::default() })
    }

    async fn open(&self) -> Result<Box<dyn Stream>, OutletError> {
        let within = self.options.connect_timeout;
        let opened = tokio::time::timeout(within, Box::pin(Transport::open(&self.options))).await;
        let opened = opened.map_err(|_| OutletError::new(format!("no connection within {within:?}")))?;
        opened.map(Transport::into_stream).map_err(OutletError::new)
    }

    async fn send(&self, messages: &[u8]) -> Result<(), OutletError> {
        let mut place = self.stream.lock().await;
        // Taken out: a stream that was left in the middle of a batch is not used again.
        let mut stream = match place.take() {
            Some(mut stream) => match has_ended(&mut stream).await {
                true => self.open().await?,
                false => stream,
            },
            None => self.open().await?,
        };
        stream.write_all(messages).await.map_err(OutletError::new)?;
        stream.flush().await.map_err(OutletError::new)?;
        if has_ended(&mut stream).await {
            return Err(OutletError::new("the collector has closed the connection"));
        }
        *place = Some(stream);
        Ok(())
    }
}

/// Whether the other side has hung up, as far as is known. It has nothing to say: what it says is passed over.
async fn has_ended(stream: &mut Box<dyn Stream>) -> bool {
    // The runtime looks at its sockets when a task stands back, and only then: what has come is seen.
    tokio::task::yield_now().await;
    let mut buffer = [0; 256];
    loop {
        let mut read = Box::pin(stream.read(&mut buffer));
        let now = std::future::poll_fn(|context| {
            std::task::Poll::Ready(match Pin::new(&mut read).poll(context) {
                std::task::Poll::Ready(result) => Some(result),
                std::task::Poll::Pending => None,
            })
        });
        match now.await {
            None => return false,
            Some(Ok(0) | Err(_)) => return true,
            Some(Ok(_)) => {}
        }
    }
}

impl Outlet for SyslogOutlet {
    fn take<'a>(&'a self, items: &'a [Item]) -> OutletFuture<'a> {
        Box::pin(async move {
            let mut messages = Vec::new();
            for item in items {
                let message = format::syslog(&item.line, self.format, &self.hostname);
                format::framed(&message, &mut messages);
            }
            self.send(&messages).await?;
            Ok(items.last().map_or(0, |item| item.sequence))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn items(numbers: std::ops::RangeInclusive<u64>) -> Vec<Item> {
        let line = |sequence: u64| format!("{{\"name\":\"a\",\"seq\":{sequence}}}").into_bytes().into();
        numbers.map(|sequence| Item { sequence, line: line(sequence) }).collect()
    }

    #[tokio::test]
    async fn messages_are_framed_and_a_lost_connection_is_opened_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("an address");
        let address = Address { host: address.ip().to_string(), port: address.port(), tls: false };
        let sink = AuditSink { hostname: Some("h 1".into()), ..AuditSink::default() };
        let outlet = SyslogOutlet::new(&address, &sink, Format::Json).expect("made");
        let batch = items(1..=2);
        let (taken, accepted) = tokio::join!(outlet.take(&batch), listener.accept());
        assert_eq!(taken, Ok(2));
        let (mut first, _) = accepted.expect("accepted");
        let mut text = vec![0; 4096];
        let length = first.read(&mut text).await.expect("read");
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        let (size, rest) = text.split_once(' ').expect("a length");
        assert!(rest.starts_with("<107>1 - h1 mqgate "), "{text}");
        assert!(rest[size.parse::<usize>().expect("a number")..].contains("<107>1"), "{text}");
        drop(first);
        // Sooner or later it is noticed; nothing counts as taken on the way.
        let batch = items(3..=3);
        let again = async {
            loop {
                if let Ok(last) = outlet.take(&batch).await {
                    break last;
                }
            }
        };
        let (last, accepted) = tokio::join!(again, listener.accept());
        assert_eq!(last, 3);
        accepted.expect("accepted");
    }
}
