//! Sockets that listen: TCP and Unix, how they are opened, what they accept.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use mqgate_identity::hooks::{Attribute, Peer, Value};
use quinn::{Endpoint, Incoming};
use serde::{Serialize, Serializer};
use socket2::{Domain, Protocol, SockAddr, Socket as RawSocket, Type};
use tokio::net::unix::UCred;
use tokio::net::{TcpListener, UnixListener};

use super::ListenerSettings;
use crate::quic::server_config;
use crate::stream::Socket;

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    Ip(SocketAddr),
    /// A socket in the file system.
    Unix(Arc<Path>),
}

/// How its socket is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketSettings {
    /// The kernel's queue of connections that are not accepted yet.
    pub backlog: i32,
    /// Packets leave at once instead of waiting for an acknowledgement of those before (TCP).
    pub nodelay: bool,
    /// Bytes that the kernel keeps of what a client has not taken; `None`: as many as it likes (TCP).
    pub send_buffer: Option<usize>,
    /// Other processes of the same user may listen on the address too; the kernel deals connections out.
    pub reuse_port: bool,
    /// `[::]` takes IPv4 as well.
    pub dual_stack: bool,
    /// Permissions of a Unix socket: who may write may connect.
    pub unix_mode: u32,
}

impl Default for SocketSettings {
    fn default() -> Self {
        Self {
            backlog: 1024,
            nodelay: true,
            send_buffer: None,
            reuse_port: false,
            dual_stack: false,
            unix_mode: 0o660,
        }
    }
}

impl ListenAddress {
    /// `None` for a Unix socket.
    pub const fn ip(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A socket that listens.
pub(super) enum ListeningSocket {
    Tcp(TcpListener),
    Unix { socket: UnixListener, file: SocketFile },
    Quic(Endpoint),
}

/// Somebody who wants to be let in.
pub(super) enum Arrival {
    Socket(Socket),
    Quic(Box<Incoming>),
}

/// The file of a Unix socket; it goes when the socket goes, unless another one has its name by then.
pub(super) struct SocketFile {
    path: Arc<Path>,
    inode: Option<u64>,
}

/// The other end of a connection.
pub(super) struct Caller {
    pub(super) peer: Peer,
    /// What else the kernel knows of it.
    pub(super) attributes: Vec<Attribute>,
}

impl ListeningSocket {
    /// `endpoint` is that of a QUIC listener that was open before.
    pub(super) fn open(
        address: &ListenAddress,
        settings: &ListenerSettings,
        endpoint: &mut Option<Endpoint>,
    ) -> io::Result<Self> {
        match address {
            ListenAddress::Ip(address) => match (settings.quic, &settings.tls) {
                (Some(quic), Some(tls)) => {
                    let config = server_config(&tls.current(), quic).map_err(io::Error::other)?;
                    udp(*address, &settings.socket, config, endpoint).map(Self::Quic)
                }
                _ => tcp(*address, &settings.socket).map(Self::Tcp),
            },
            ListenAddress::Unix(path) => unix(path, &settings.socket),
        }
    }

    /// Accepts no more. What was accepted goes on.
    pub(super) fn shut(self) {
        if let Self::Quic(endpoint) = self {
            endpoint.set_server_config(None);
        }
    }

    /// Port 0 was replaced by a free one.
    pub(super) fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(socket) => socket.local_addr().map(ListenAddress::Ip),
            Self::Unix { file, .. } => Ok(ListenAddress::Unix(Arc::clone(&file.path))),
            Self::Quic(endpoint) => endpoint.local_addr().map(ListenAddress::Ip),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Arrival, Caller)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, peer) = socket.accept().await?;
                Ok((Arrival::Socket(Socket::Tcp(stream)), Caller::at(peer)))
            }
            Self::Unix { socket, .. } => {
                let (stream, _) = socket.accept().await?;
                let attributes = stream.peer_cred().map(credentials).unwrap_or_default();
                // It has no address; it is a process of this machine.
                let peer = Peer { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 0, via_proxy: None };
                Ok((Arrival::Socket(Socket::Unix(stream)), Caller { peer, attributes }))
            }
            Self::Quic(endpoint) => match endpoint.accept().await {
                Some(incoming) => {
                    let caller = Caller::at(incoming.remote_address());
                    Ok((Arrival::Quic(Box::new(incoming)), caller))
                }
                None => Err(io::Error::other("the QUIC endpoint is closed")),
            },
        }
    }
}

impl Caller {
    fn at(address: SocketAddr) -> Self {
        let peer = Peer { address: address.ip().to_canonical(), port: address.port(), via_proxy: None };
        Self { peer, attributes: Vec::new() }
    }
}

fn credentials(peer: UCred) -> Vec<Attribute> {
    let number = |name: &str, value: i64| Attribute { name: name.into(), value: Value::Integer(value) };
    let mut attributes =
        vec![number("unix.uid", i64::from(peer.uid())), number("unix.gid", i64::from(peer.gid()))];
    attributes.extend(peer.pid().map(|pid| number("unix.pid", i64::from(pid))));
    attributes
}

fn tcp(address: SocketAddr, settings: &SocketSettings) -> io::Result<TcpListener> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted broker must not wait for the connections of its predecessor to be forgotten.
    socket.set_reuse_address(true)?;
    if settings.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // Said in any case: the system's default differs from machine to machine.
        socket.set_only_v6(!settings.dual_stack)?;
    }
    if let Some(size) = settings.send_buffer {
        socket.set_send_buffer_size(size)?; // What is accepted inherits it.
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(settings.backlog)?;
    TcpListener::from_std(socket.into())
}

fn udp(
    address: SocketAddr,
    settings: &SocketSettings,
    config: quinn::ServerConfig,
    endpoint: &mut Option<Endpoint>,
) -> io::Result<Endpoint> {
    if let Some(endpoint) = endpoint {
        endpoint.set_server_config(Some(config));
        return Ok(endpoint.clone());
    }
    let socket = RawSocket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if settings.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(!settings.dual_stack)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let runtime = Arc::new(quinn::TokioRuntime);
    let opened = Endpoint::new(quinn::EndpointConfig::default(), Some(config), socket.into(), runtime)?;
    *endpoint = Some(opened.clone());
    Ok(opened)
}

fn unix(path: &Arc<Path>, settings: &SocketSettings) -> io::Result<ListeningSocket> {
    let socket = RawSocket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let address = SockAddr::unix(path)?;
    match socket.bind(&address) {
        Err(problem) if problem.kind() == io::ErrorKind::AddrInUse && is_stale(path, &address)? => {
            std::fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    let file = SocketFile {
        path: Arc::clone(path),
        inode: std::fs::symlink_metadata(path).ok().map(|metadata| metadata.ino()),
    };
    // Nobody can connect before `listen`: there is no moment with other permissions.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(settings.unix_mode))?;
    socket.listen(settings.backlog)?;
    let listener: std::os::unix::net::UnixListener = socket.into();
    Ok(ListeningSocket::Unix { socket: UnixListener::from_std(listener)?, file })
}

/// Whether the file is a socket that nobody listens on any more, left by a process that was killed.
fn is_stale(path: &Path, address: &SockAddr) -> io::Result<bool> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let probe = RawSocket::new(Domain::UNIX, Type::STREAM, None)?;
    // One that is alive with a full queue says "again", and is not stale.
    probe.set_nonblocking(true)?;
    match probe.connect(address) {
        Err(problem) => Ok(problem.kind() == io::ErrorKind::ConnectionRefused),
        Ok(()) => Ok(false),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let now = std::fs::symlink_metadata(&self.path).ok().map(|metadata| metadata.ino());
        if now.is_some() && now == self.inode {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The longest path that a Unix socket can have.
pub const LONGEST_UNIX_PATH: usize = 107;

#[cfg(test)]
mod tests {
    use tokio::net::{TcpStream, UnixStream};

    use super::*;

    fn open(address: &ListenAddress) -> io::Result<ListeningSocket> {
        with(address, SocketSettings::default())
    }

    fn with(address: &ListenAddress, socket: SocketSettings) -> io::Result<ListeningSocket> {
        let settings = ListenerSettings { socket, ..ListenerSettings::new("test", address.clone(), None) };
        ListeningSocket::open(address, &settings, &mut None)
    }

    fn in_folder(folder: &tempfile::TempDir) -> (ListenAddress, std::path::PathBuf) {
        let path = folder.path().join("mqtt.sock");
        (ListenAddress::Unix(path.as_path().into()), path)
    }

    #[tokio::test]
    async fn a_unix_socket_has_its_permissions_and_knows_who_calls() {
        let folder = tempfile::tempdir().unwrap();
        let (address, path) = in_folder(&folder);
        let settings = SocketSettings { unix_mode: 0o600, ..SocketSettings::default() };
        let socket = with(&address, settings).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(socket.address().unwrap(), address);
        let _client = UnixStream::connect(&path).await.unwrap();
        let (_, caller) = socket.accept().await.unwrap();
        let own = std::fs::metadata(folder.path()).unwrap();
        let expected = [
            ("unix.uid", i64::from(own.uid())),
            ("unix.gid", i64::from(own.gid())),
            ("unix.pid", i64::from(std::process::id())),
        ];
        let found = caller.attributes.iter().map(|attribute| match attribute.value {
            Value::Integer(value) => (attribute.name.as_str(), value),
            ref other => panic!("{other:?}"),
        });
        assert_eq!(found.collect::<Vec<_>>(), expected);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (address, path) = in_folder(&folder);
        // As a killed process leaves it: nothing is removed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let first = open(&address).unwrap();
        let taken = open(&address).err().unwrap();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        assert!(UnixStream::connect(&path).await.is_ok(), "the first one still listens");

        // Whoever took the name meanwhile keeps it.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "a file").unwrap();
        drop(first);
        assert_eq!(open(&address).err().unwrap().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
    }

    #[tokio::test]
    async fn what_the_kernel_keeps_of_a_client_is_bounded_where_that_is_wanted() {
        let local = ListenAddress::Ip("127.0.0.1:0".parse().unwrap());
        let settings = SocketSettings { send_buffer: Some(16 * 1024), ..SocketSettings::default() };
        let socket = with(&local, settings).unwrap();
        let _client = TcpStream::connect(socket.address().unwrap().ip().unwrap()).await.unwrap();
        let (Arrival::Socket(Socket::Tcp(accepted)), _) = socket.accept().await.unwrap() else {
            panic!("no TCP")
        };
        // Linux counts its own bookkeeping, too, and doubles what it is told.
        assert_eq!(socket2::SockRef::from(&accepted).send_buffer_size().unwrap(), 32 * 1024);
    }

    #[tokio::test]
    async fn both_stacks_and_several_processes_only_if_asked_for() {
        let any = ListenAddress::Ip("[::]:0".parse().unwrap());
        for (dual_stack, reaches) in [(false, false), (true, true)] {
            let settings = SocketSettings { dual_stack, ..SocketSettings::default() };
            let socket = with(&any, settings).unwrap();
            let port = socket.address().unwrap().ip().unwrap().port();
            let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
            assert_eq!(client.is_ok(), reaches);
            if reaches {
                let (_, caller) = socket.accept().await.unwrap();
                assert_eq!(caller.peer.address, IpAddr::V4(Ipv4Addr::LOCALHOST), "as IPv4");
            }
        }
        let local = ListenAddress::Ip("127.0.0.1:0".parse().unwrap());
        for (reuse_port, may) in [(false, false), (true, true)] {
            let settings = SocketSettings { reuse_port, ..SocketSettings::default() };
            let first = with(&local, settings.clone()).unwrap();
            let second = with(&first.address().unwrap(), settings);
            assert_eq!(second.is_ok(), may);
        }
    }
}
