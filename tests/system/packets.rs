//! Frames by hand: what an attacker on the LAN can send, and what it can see.

use std::io;
use std::mem::zeroed;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recv,
    socket,
};
use nix::sys::time::TimeVal;
use tandem::lab::Host;
use tandem::model::Mac;
use tandem::time::Mono;

/// `eth0` of every host; `eth1` follows.
pub(crate) const ETH0: i32 = 2;
const MAX_FRAME: usize = 65_536;
/// Ethernet, IPv4 and UDP.
const HEADERS: usize = 14 + 20 + 8;
/// Frames that are handed to the kernel at once.
const BATCH: usize = 250;

/// A packet socket on one interface of a host.
pub(crate) struct Wire(OwnedFd);

impl Wire {
    /// Opens it; 0 is every interface.
    pub(crate) async fn tap(host: &Host, interface: i32) -> Self {
        let open = move || -> nix::Result<OwnedFd> {
            let none = None::<SockProtocol>;
            let (family, kind) = (AddressFamily::Packet, SockType::Raw);
            let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, none)?;
            // SAFETY: all-zero bytes are a valid sockaddr_ll.
            let mut address: libc::sockaddr_ll = unsafe { zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            address.sll_ifindex = interface;
            let raw = (&raw mut address).cast::<libc::sockaddr>();
            // SAFETY: `address` is a whole sockaddr_ll, which is what its family says.
            let address = unsafe { LinkAddr::from_raw(raw, None) }.ok_or(Errno::EINVAL)?;
            bind(fd.as_raw_fd(), &address)?;
            let room = 8 << 20;
            nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::RcvBuf, &room)?;
            let wait = TimeVal::new(0, 50_000);
            nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::ReceiveTimeout, &wait)?;
            Ok(fd)
        };
        Self(
            host.run(async move { open() })
                .await
                .expect("a packet socket"),
        )
    }

    /// The next frame, if one comes within 50 ms.
    pub(crate) fn frame(&self) -> Option<Vec<u8>> {
        self.receive(MsgFlags::empty())
    }

    /// The next frame, if it has come already.
    pub(crate) fn waiting(&self) -> Option<Vec<u8>> {
        self.receive(MsgFlags::MSG_DONTWAIT)
    }

    fn receive(&self, flags: MsgFlags) -> Option<Vec<u8>> {
        let mut frame = vec![0; MAX_FRAME];
        let length = recv(self.0.as_raw_fd(), &mut frame, flags).ok()?;
        frame.truncate(length);
        Some(frame)
    }

    /// Sends a frame as it is.
    pub(crate) fn send(&self, frame: &[u8]) {
        nix::sys::socket::send(self.0.as_raw_fd(), frame, MsgFlags::empty()).expect("sent");
    }

    /// Sends so many datagrams with random contents of 8 to 400 bytes, each after `prefix` and no
    /// two alike, at most so many a second. Blocks.
    pub(crate) fn flood(&self, datagram: &Datagram, prefix: &[u8], count: usize, rate: usize) {
        let mut random = fastrand::Rng::with_seed(7);
        let head = HEADERS + prefix.len();
        let one = |n: usize| {
            let mut frame = datagram.frame(&vec![0; prefix.len() + 8 + n * 392 / BATCH]);
            frame[HEADERS..head].copy_from_slice(prefix);
            random.fill(&mut frame[head..]);
            frame
        };
        let mut frames: Vec<_> = (0..BATCH).map(one).collect();
        let pause = Duration::from_secs_f64(BATCH as f64 / rate as f64);
        let clock = tandem::net::clock::Clock::start();
        for batch in 0..count.div_ceil(BATCH) {
            for frame in &mut frames {
                // Fresh bytes where a reader looks first; the others are random as they are.
                let fresh = random.u64(..).to_ne_bytes();
                frame[head..head + fresh.len()].copy_from_slice(&fresh);
            }
            send_all(&self.0, &frames).expect("the kernel takes them");
            let due = pause * u32::try_from(batch + 1).expect("fewer batches");
            std::thread::sleep(due.saturating_sub(clock.now().since(Mono::ZERO)));
        }
    }
}

impl Wire {
    /// Sends all of these, at most so many a second. Blocks.
    pub(crate) fn pour(&self, frames: &[Vec<u8>], rate: usize) {
        let pause = Duration::from_secs_f64(BATCH as f64 / rate as f64);
        let clock = tandem::net::clock::Clock::start();
        for (batch, frames) in (1..).zip(frames.chunks(BATCH)) {
            send_all(&self.0, frames).expect("the kernel takes them");
            std::thread::sleep((pause * batch).saturating_sub(clock.now().since(Mono::ZERO)));
        }
    }
}

/// Hands all frames to the kernel (sendmmsg(2)).
fn send_all(socket: &OwnedFd, frames: &[Vec<u8>]) -> io::Result<()> {
    let mut parts: Vec<libc::iovec> = frames
        .iter()
        .map(|frame| libc::iovec {
            iov_base: frame.as_ptr().cast_mut().cast(),
            iov_len: frame.len(),
        })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: all-zero bytes are a valid mmsghdr.
            let mut message: libc::mmsghdr = unsafe { zeroed() };
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
            message
        })
        .collect();
    let mut sent = 0;
    while sent < messages.len() {
        let rest = &mut messages[sent..];
        // SAFETY: each message points to one part, each part to one frame, and all outlive the
        // call, which only reads the frames.
        let done =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as u32, 0) };
        match Errno::result(done) {
            Ok(done) => sent += done as usize,
            // The interface's queue is full for a moment.
            Err(Errno::ENOBUFS) => std::thread::yield_now(),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Where a forged packet says that it comes from and goes to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram {
    /// Who really sends it, and who shall get it, on the LAN.
    pub(crate) macs: (Mac, Mac),
    pub(crate) from: (Ipv4Addr, u16),
    pub(crate) to: (Ipv4Addr, u16),
}

impl Datagram {
    /// A UDP datagram. Without a checksum, which UDP over IPv4 need not have.
    fn frame(&self, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(self.macs.0.0, self.macs.1.0)
            .ipv4(self.from.0.octets(), self.to.0.octets(), 64)
            .udp(self.from.1, self.to.1);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).expect("it fits");
        frame[HEADERS - 2..HEADERS].fill(0);
        frame
    }

    /// A TCP segment that opens a connection (no acknowledgement) or belongs to one.
    pub(crate) fn tcp(&self, sequence: u32, acknowledged: Option<u32>, payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(self.macs.0.0, self.macs.1.0)
            .ipv4(self.from.0.octets(), self.to.0.octets(), 64)
            .tcp(self.from.1, self.to.1, sequence, 64_000);
        let builder = match acknowledged {
            Some(number) => builder.ack(number),
            None => builder.syn(),
        };
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).expect("it fits");
        frame
    }

    /// A TCP reset with this sequence number.
    pub(crate) fn reset(&self, sequence: u32) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(self.macs.0.0, self.macs.1.0)
            .ipv4(self.from.0.octets(), self.to.0.octets(), 64)
            .tcp(self.from.1, self.to.1, sequence, 0)
            .rst();
        let mut frame = Vec::new();
        builder.write(&mut frame, &[]).expect("it fits");
        frame
    }
}

/// What a TCP segment says that matters to a forger.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) from: (Ipv4Addr, u16),
    pub(crate) to: (Ipv4Addr, u16),
    /// The sequence number after it.
    pub(crate) next: u32,
    pub(crate) rst: bool,
}

/// The segment in a frame, if there is one.
pub(crate) fn segment(frame: &[u8]) -> Option<Segment> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) = (packet.net?, packet.transport?) else {
        return None;
    };
    let occupied = tcp.payload().len() as u32 + u32::from(tcp.syn()) + u32::from(tcp.fin());
    Some(Segment {
        from: (ip.header().source_addr(), tcp.source_port()),
        to: (ip.header().destination_addr(), tcp.destination_port()),
        next: tcp.sequence_number().wrapping_add(occupied),
        rst: tcp.rst(),
    })
}

/// The sender and the content of the UDP datagram in a frame, if there is one.
pub(crate) fn payload(frame: &[u8]) -> Option<((Ipv4Addr, u16), Vec<u8>)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) = (packet.net?, packet.transport?) else {
        return None;
    };
    let from = (ip.header().source_addr(), udp.source_port());
    Some((from, udp.payload().to_vec()))
}

/// Whether a frame speaks in the name of this address: as its IP source, or as ARP sender.
pub(crate) fn speaks_for(frame: &[u8], address: IpAddr) -> bool {
    const TYPE: usize = 12;
    let sender = match (frame.get(TYPE..TYPE + 2), address) {
        // RFC 826, over Ethernet.
        (Some([8, 6]), IpAddr::V4(_)) => frame.get(28..32),
        (Some([8, 0]), IpAddr::V4(_)) => frame.get(26..30),
        (Some([0x86, 0xdd]), IpAddr::V6(_)) => frame.get(22..38),
        _ => None,
    };
    match address {
        IpAddr::V4(address) => sender == Some(&address.octets()),
        IpAddr::V6(address) => sender == Some(&address.octets()),
    }
}
