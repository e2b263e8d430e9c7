//! Route netlink (rtnetlink(7)) over plain sockets: addresses, links, one route; what else is asked
//! (`peer.rs`) goes through [`Netlink::request`].
//!
//! Requests wait for their answer on a socket of their own; the kernel carries them out within the
//! send, so the answer is there at once.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroI32;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// A receive takes one datagram; the kernel makes none longer for a reader with this much room
/// (`NLMSG_GOODSIZE` is at most 8 KiB, dumps grow to 32 KiB).
pub(super) const DATAGRAM: usize = 64 * 1024;
/// The answer of the kernel; it waits for nothing but a lock.
const PATIENCE: Duration = Duration::from_secs(1);
/// `INFINITY_LIFE_TIME`.
const INFINITY: u32 = u32::MAX;
/// `ip route get` to here names the default gateway. Nothing is sent to it.
const FAR_AWAY: Ipv4Addr = Ipv4Addr::new(1, 0, 0, 0);

pub(super) type Message = NetlinkMessage<RouteNetlinkMessage>;

/// How long an address is to be there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stay {
    /// For so long, unless it is renewed.
    Lease(Duration),
    /// As long as the device. Then it may be there while another node owns it, so it is none that the
    /// kernel would choose as the source of what this host sends.
    Forever,
}

/// Asks and tells the kernel.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // The kernel filters dumps by index itself; without it (before 4.20) we do.
        let _ = socket.set_netlink_get_strict_chk(true);
        let patience = TimeVal::milliseconds(PATIENCE.as_millis() as i64);
        setsockopt(&socket, sockopt::ReceiveTimeout, &patience)?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(DATAGRAM),
        })
    }

    /// Adds these addresses to a device, or renews them. All are tried.
    pub(super) fn put(
        &mut self,
        device: u32,
        addresses: &[IpAddr],
        stay: Stay,
    ) -> Vec<io::Result<()>> {
        let flags = NLM_F_REPLACE | NLM_F_CREATE;
        self.all(flags, addresses, |ip| {
            let mut message = address(device, ip);
            let mut lifetime = CacheInfo::default();
            (lifetime.ifa_valid, lifetime.ifa_preferred) = match (stay, ip) {
                (Stay::Lease(lease), _) => (lease.as_secs() as u32, lease.as_secs() as u32),
                (Stay::Forever, IpAddr::V4(_)) => (INFINITY, INFINITY),
                // Deprecated: a source only for who asks for it (RFC 6724, section 5, rule 3).
                (Stay::Forever, IpAddr::V6(_)) => (INFINITY, 0),
            };
            if let (Stay::Forever, IpAddr::V4(_)) = (stay, ip) {
                // IPv4 knows no such thing. But where the interface on the way out has no address, it
                // takes one of another device, and never one of this scope
                // (`in_dev_select_addr()` of the kernel's net/ipv4/devinet.c).
                message.header.scope = AddressScope::Link;
            }
            message.attributes.extend([
                // No detection of duplicates, which would delay it by a second or for ever; no
                // route, since there is nothing behind the device.
                AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute),
                AddressAttribute::CacheInfo(lifetime),
            ]);
            message.header.flags = AddressHeaderFlags::Nodad;
            RouteNetlinkMessage::NewAddress(message)
        })
    }

    /// Removes these addresses from a device. One that is not there counts as removed.
    pub(super) fn remove(&mut self, device: u32, addresses: &[IpAddr]) -> io::Result<()> {
        self.all(0, addresses, |ip| {
            RouteNetlinkMessage::DelAddress(address(device, ip))
        })
        .into_iter()
        .find(|result| match result {
            Ok(()) => false,
            Err(error) => error.raw_os_error() != Some(libc::EADDRNOTAVAIL),
        })
        .unwrap_or(Ok(()))
    }

    /// The addresses of a device, of both families, without link-local ones.
    pub(super) fn addresses(&mut self, device: u32) -> io::Result<Vec<IpAddr>> {
        let mut request = AddressMessage::default();
        request.header.index = device;
        let mut found = Vec::new();
        self.request(
            NLM_F_DUMP,
            RouteNetlinkMessage::GetAddress(request),
            |answer| {
                if let RouteNetlinkMessage::NewAddress(message) = answer
                    && message.header.index == device
                {
                    found.extend(ip_of(&message));
                }
            },
        )?;
        Ok(found)
    }

    /// Every link of the host.
    pub(super) fn links(&mut self, mut each: impl FnMut(LinkMessage)) -> io::Result<()> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.request(NLM_F_DUMP, request, |answer| {
            if let RouteNetlinkMessage::NewLink(message) = answer {
                each(message);
            }
        })
    }

    /// Removes a device.
    pub(super) fn remove_link(&mut self, device: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = device;
        self.request(NLM_F_ACK, RouteNetlinkMessage::DelLink(message), |_| ())
    }

    /// Brings a device up.
    pub(super) fn set_up(&mut self, device: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = device;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(NLM_F_ACK, RouteNetlinkMessage::SetLink(message), |_| ())
    }

    /// Has the kernel make no IPv6 address of its own for a device.
    pub(super) fn no_generated_addresses(&mut self, device: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = device;
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let inet6 = AfSpecUnspec::Inet6(vec![mode]);
        message
            .attributes
            .push(LinkAttribute::AfSpecUnspec(vec![inet6]));
        self.request(NLM_F_ACK, RouteNetlinkMessage::SetLink(message), |_| ())
    }

    /// The default gateway of an interface; a look-up of one route, whatever the table's size.
    pub(super) fn gateway(&mut self, interface: u32) -> io::Result<Option<Ipv4Addr>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = 32;
        message.attributes.extend([
            RouteAttribute::Destination(RouteAddress::Inet(FAR_AWAY)),
            RouteAttribute::Oif(interface),
        ]);
        let mut gateway = None;
        let request = RouteNetlinkMessage::GetRoute(message);
        self.request(NLM_F_ACK, request, |answer| {
            if let RouteNetlinkMessage::NewRoute(route) = answer {
                gateway = route
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => Some(*gateway),
                        _ => None,
                    });
            }
        })?;
        Ok(gateway)
    }

    /// One request for each address, in one send.
    fn all(
        &mut self,
        flags: u16,
        addresses: &[IpAddr],
        request: impl Fn(IpAddr) -> RouteNetlinkMessage,
    ) -> Vec<io::Result<()>> {
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for &ip in addresses {
            self.append(&mut bytes, flags | NLM_F_ACK, request(ip));
        }
        let failed = |error: &io::Error| match error.raw_os_error() {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        let mut results = Vec::with_capacity(addresses.len());
        let mut broken = self.send(&bytes).err();
        for place in 0..addresses.len() {
            let sequence = first.wrapping_add(place as u32);
            if broken.is_none() {
                match self.answers(sequence, |_| ()) {
                    Ok(()) => {
                        results.push(Ok(()));
                        continue;
                    }
                    Err(Trouble::Refused(error)) => {
                        results.push(Err(error));
                        continue;
                    }
                    Err(Trouble::Socket(error)) => broken = Some(error),
                }
            }
            results.push(broken.as_ref().map_or(Ok(()), |error| Err(failed(error))));
        }
        results
    }

    /// One request; `each` gets the messages of the answer.
    pub(super) fn request(
        &mut self,
        flags: u16,
        request: RouteNetlinkMessage,
        each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        let sequence = self.append(&mut bytes, flags, request);
        self.send(&bytes)?;
        match self.answers(sequence, each) {
            Ok(()) => Ok(()),
            Err(Trouble::Refused(error) | Trouble::Socket(error)) => Err(error),
        }
    }

    fn append(&mut self, bytes: &mut Vec<u8>, flags: u16, request: RouteNetlinkMessage) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = Message::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len(), 0);
        message.serialize(&mut bytes[start..]);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket
            .send_to(bytes, &SocketAddr::new(0, 0), 0)
            .map(drop)
    }

    /// Reads until the kernel has said all about this request. Answers to earlier requests, which
    /// were given up, are skipped.
    fn answers(
        &mut self,
        sequence: u32,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<(), Trouble> {
        loop {
            let mut end = None;
            receive(&self.socket, &mut self.buffer, |message| {
                if message.header.sequence_number != sequence {
                    return;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => each(inner),
                    NetlinkPayload::Done(done) => end = Some(NonZeroI32::new(done.code)),
                    NetlinkPayload::Error(error) => end = Some(error.code),
                    _ => {}
                }
            })
            .map_err(|error| match error.kind() {
                io::ErrorKind::WouldBlock => Trouble::Socket(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the kernel did not answer in time",
                )),
                _ => Trouble::Socket(error),
            })?;
            match end {
                Some(None) => return Ok(()),
                Some(Some(code)) => {
                    let errno = code.get().wrapping_neg();
                    return Err(Trouble::Refused(io::Error::from_raw_os_error(errno)));
                }
                None => {}
            }
        }
    }
}

/// Why a request got no good answer.
enum Trouble {
    /// The kernel said no.
    Refused(io::Error),
    /// The kernel said nothing.
    Socket(io::Error),
}

/// One datagram, message by message. What cannot be read is an error like a lost datagram.
pub(super) fn receive(
    socket: &Socket,
    buffer: &mut Vec<u8>,
    mut each: impl FnMut(Message),
) -> io::Result<()> {
    let (length, from) = loop {
        buffer.clear();
        match socket.recv_from(buffer, libc::MSG_TRUNC) {
            // A receive with a time limit is not restarted after a signal (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => break result?,
        }
    };
    let unreadable = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if length > buffer.len() {
        return Err(unreadable("netlink datagram longer than the buffer"));
    }
    if from.port_number() != 0 {
        // Not the kernel.
        return Ok(());
    }
    let mut rest = buffer.as_slice();
    while !rest.is_empty() {
        let message = Message::deserialize(rest).map_err(|error| unreadable(&error.to_string()))?;
        let length = message.header.length as usize;
        // Messages are aligned to four bytes (netlink(7)).
        let aligned = length.next_multiple_of(4).max(16);
        each(message);
        rest = rest.get(aligned..).unwrap_or_default();
    }
    Ok(())
}

fn address(device: u32, ip: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    (message.header.family, message.header.prefix_len) = match ip {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.header.index = device;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
    message
}

fn ip_of(message: &AddressMessage) -> Option<IpAddr> {
    // IPv4 names its own address `Local`, IPv6 `Address` (there is no other end).
    let local = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Local(ip) => Some(*ip),
            _ => None,
        });
    local
        .or_else(|| {
            message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    AddressAttribute::Address(ip) => Some(*ip),
                    _ => None,
                })
        })
        .filter(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()))
}
