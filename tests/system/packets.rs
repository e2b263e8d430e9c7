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

    /// Makes room for as much as may come while nobody listens, and hears nothing of its own.
    pub(crate) fn hear_much(&self) {
        let room = 64 << 20;
        let forced = nix::sys::socket::sockopt::RcvBufForce;
        nix::sys::socket::setsockopt(&self.0, forced, &room).expect("root may");
        let on: libc::c_int = 1;
        // SAFETY: the option is an int, and the pointer is to one.
        let set = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_IGNORE_OUTGOING,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        Errno::result(set).expect("Linux 4.20");
    }

    /// Fills `frames` with what has come; waits up to 50 ms for the first.
    pub(crate) fn hear(&self, frames: &mut Frames) {
        let mut parts: Vec<libc::iovec> = frames
            .rooms()
            .iter_mut()
            .map(|room| libc::iovec {
                iov_base: room.as_mut_ptr().cast(),
                iov_len: room.len(),
            })
            .collect();
        let mut messages = messages(&mut parts);
        let flags = libc::MSG_WAITFORONE;
        // SAFETY: each message points to one part, each part to a room of its length, and all
        // outlive the call.
        let done = unsafe {
            libc::recvmmsg(
                self.0.as_raw_fd(),
                messages.as_mut_ptr(),
                messages.len() as u32,
                flags,
                std::ptr::null_mut(),
            )
        };
        let done = Errno::result(done).unwrap_or(0) as usize;
        let lengths = messages.iter().map(|message| message.msg_len as usize);
        frames.filled(lengths.take(done));
    }

    /// Sends all, and empties `frames`.
    pub(crate) fn send_all(&self, frames: &mut Frames) {
        send_all(&self.0, frames.all()).expect("the kernel takes them");
        frames.clear();
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

/// Frames in memory that is used again and again.
pub(crate) struct Frames {
    frames: Vec<Vec<u8>>,
    length: usize,
    longest: usize,
}

impl Frames {
    /// Room for so many of so many bytes; more frames make more room.
    pub(crate) fn new(count: usize, longest: usize) -> Self {
        Self {
            frames: vec![Vec::with_capacity(longest); count],
            length: 0,
            longest,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    /// One more, to be written.
    pub(crate) fn add(&mut self) -> &mut Vec<u8> {
        if self.length == self.frames.len() {
            self.frames.push(Vec::with_capacity(self.longest));
        }
        self.length += 1;
        &mut self.frames[self.length - 1]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.all().iter().map(Vec::as_slice)
    }

    fn all(&self) -> &[Vec<u8>] {
        &self.frames[..self.length]
    }

    const fn clear(&mut self) {
        self.length = 0;
    }

    fn rooms(&mut self) -> &mut [Vec<u8>] {
        for frame in &mut self.frames {
            frame.resize(self.longest, 0);
        }
        &mut self.frames
    }

    fn filled(&mut self, lengths: impl Iterator<Item = usize>) {
        self.length = 0;
        for (frame, length) in self.frames.iter_mut().zip(lengths) {
            frame.truncate(length);
            self.length += 1;
        }
    }
}

/// A message of each part.
fn messages(parts: &mut [libc::iovec]) -> Vec<libc::mmsghdr> {
    let one = |part: &mut libc::iovec| {
        // SAFETY: all-zero bytes are a valid mmsghdr.
        let mut message: libc::mmsghdr = unsafe { zeroed() };
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
        message
    };
    parts.iter_mut().map(one).collect()
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
    let mut messages = messages(&mut parts);
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
    pub(crate) fn frame(&self, payload: &[u8]) -> Vec<u8> {
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
