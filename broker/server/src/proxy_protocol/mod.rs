//! The PROXY protocol: who may speak it to a listener, what is believed of it, and reading the header before
//! anything else.
//!
//! Does not know TLS or MQTT; what a certificate from a header means is judged where those of handshakes are.

pub mod header;
#[cfg(test)]
pub(crate) mod testing;
pub mod tlv;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use mqgate_identity::evaluation::PathPolicy;
use tokio::io::{AsyncRead, AsyncReadExt};

pub use self::header::{Header, HeaderError, Proxied};
use crate::tls::ClientAuth;
use crate::trust::TrustStore;

/// The PROXY protocol on one listener.
#[derive(Clone)]
pub struct ProxySettings {
    /// Every connection from these begins with a header.
    pub from: Vec<IpNet>,
    pub direct: Direct,
    /// For the header.
    pub timeout: Duration,
    /// Bytes of a header.
    pub longest: usize,
    /// Type of the TLV that carries the client's certificate.
    pub certificate_tlv: u8,
    pub identity: ProxyIdentity,
}

/// What becomes of connections that do not come from a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direct {
    Deny,
    Allow,
}

/// What is believed of a client whose TLS ended in the proxy.
#[derive(Clone)]
pub enum ProxyIdentity {
    None,
    /// The common name of a certificate that the proxy has verified.
    CommonName,
    /// The certificate: judged as one of our own handshakes is, the proof of its key taken from the proxy.
    Certificate {
        client_auth: ClientAuth,
        trust: Arc<TrustStore>,
        policy: Box<PathPolicy>,
    },
}

impl ProxySettings {
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.from.iter().any(|network| network.contains(&address))
    }
}

/// Why no header was read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// It said nothing at all, as those do that only look whether we are here.
    #[error("it was closed before it said anything")]
    Silent,
    #[error("it ended within its header: {0}")]
    Ended(io::Error),
    #[error("its header was not complete within {0:?}")]
    Timeout(Duration),
}

/// Reads the header, and not a byte more.
pub async fn read_header<S>(stream: &mut S, settings: &ProxySettings) -> Result<Header, ReadError>
where
    S: AsyncRead + Unpin,
{
    let reading = async {
        let mut received = Vec::with_capacity(64);
        loop {
            let missing = header::missing(&received, settings.longest)?;
            if missing == 0 {
                return Ok(header::parse(&received, settings.certificate_tlv)?);
            }
            let before = received.len();
            // What is announced is bounded by `longest`.
            let limit = u64::try_from(missing).unwrap_or(u64::MAX);
            match (&mut *stream).take(limit).read_buf(&mut received).await {
                Ok(0) if before == 0 => return Err(ReadError::Silent),
                Ok(0) => return Err(ReadError::Ended(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(_) if before == 0 => return Err(ReadError::Silent),
                Err(error) => return Err(ReadError::Ended(error)),
            }
        }
    };
    tokio::time::timeout(settings.timeout, reading).await.unwrap_or(Err(ReadError::Timeout(settings.timeout)))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::testing::Builder;
    use super::*;

    fn settings() -> ProxySettings {
        ProxySettings {
            from: vec!["10.1.0.0/16".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
            direct: Direct::Deny,
            timeout: Duration::from_secs(5),
            longest: 256,
            certificate_tlv: 0xE0,
            identity: ProxyIdentity::None,
        }
    }

    #[test]
    fn only_listed_networks_are_proxies() {
        let settings = settings();
        let is = |address: &str| settings.is_proxy(address.parse().unwrap());
        assert!(is("10.1.255.1") && is("2001:db8:1::1"));
        assert!(!is("10.2.0.1") && !is("2001:db9::1") && !is("127.0.0.1"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_header_is_taken_and_the_rest_is_left() {
        for header in
            [Builder::v4("192.0.2.7:4242").bytes(), b"PROXY TCP4 192.0.2.7 192.0.2.8 4242 1\r\n".to_vec()]
        {
            for pieces in [1, 3, 1000] {
                let (mut proxy, mut ours) = tokio::io::duplex(4096);
                let bytes = [header.clone(), b"\x10\x00rest".to_vec()].concat();
                let writing = tokio::spawn(async move {
                    for piece in bytes.chunks(pieces) {
                        proxy.write_all(piece).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                });
                let Header::Proxied(proxied) = read_header(&mut ours, &settings()).await.unwrap() else {
                    panic!("it is proxied");
                };
                assert_eq!(proxied.source, testing::source("192.0.2.7:4242"));
                writing.await.unwrap();
                let mut rest = Vec::new();
                ours.read_to_end(&mut rest).await.unwrap();
                assert_eq!(rest, b"\x10\x00rest");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_is_not_waited_for_forever() {
        let (mut proxy, mut ours) = tokio::io::duplex(4096);
        proxy.write_all(b"PROXY TCP4").await.unwrap();
        assert!(matches!(read_header(&mut ours, &settings()).await, Err(ReadError::Timeout(_))));
        drop(proxy);
        assert!(matches!(read_header(&mut ours, &settings()).await, Err(ReadError::Silent)));

        let (mut proxy, mut ours) = tokio::io::duplex(4096);
        proxy.write_all(b"PROXY TCP4").await.unwrap();
        drop(proxy);
        assert!(matches!(read_header(&mut ours, &settings()).await, Err(ReadError::Ended(_))));

        // A header at the limit, and one beyond it.
        for (padding, fits) in [(256 - 16 - 12 - 3, true), (256 - 16 - 12 - 2, false)] {
            let (mut proxy, mut ours) = tokio::io::duplex(4096);
            let header = Builder::v4("192.0.2.7:1").tlv(0x04, &vec![0; padding]).bytes();
            proxy.write_all(&header).await.unwrap();
            match read_header(&mut ours, &settings()).await {
                Ok(_) => assert!(fits),
                Err(error) => {
                    assert!(!fits && error.to_string() == "its header is longer than 256 bytes", "{error}");
                }
            }
        }
    }
}
