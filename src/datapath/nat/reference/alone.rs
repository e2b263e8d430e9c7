//! One packet without tables: for user space, which sends on what the program held.

use super::super::layout::{Flow, V4};
use super::packet::{self, Kind, L3};
use super::translate;

/// A TCP packet, from its IP header on, as the program would send it on by this entry, and where
/// its TCP header begins. Of a packet that was cut short the payload that is there goes on. None:
/// it has no whole TCP header, or no hop left. Its checksums were changed by what changed under
/// them.
pub(in super::super) fn translated(bytes: &[u8], flow: &Flow) -> Option<(Vec<u8>, usize)> {
    let version = bytes.first()? >> 4;
    let ethertype: u16 = if version == 4 { 0x0800 } else { 0x86dd };
    let mut frame = vec![0; L3 - 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(bytes);
    shorten(&mut frame, version)?;
    let (kind, packet) = packet::read(&frame, false);
    if kind != Kind::Tcp || packet.hops < 2 {
        return None;
    }
    translate::tcp(&mut frame, &packet, flow);
    frame.truncate(packet.end);
    Some((frame.split_off(L3), packet.l4 - L3))
}

/// Lowers the length in the IP header to what is there.
fn shorten(frame: &mut [u8], version: u8) -> Option<()> {
    let (at, header) = if u32::from(version) == V4 {
        (L3 + 2, 0)
    } else {
        (L3 + 4, 40)
    };
    let there = u16::try_from(frame.len().checked_sub(L3 + header)?).ok()?;
    let field = frame.get_mut(at..at + 2)?;
    if u16::from_be_bytes([field[0], field[1]]) > there {
        field.copy_from_slice(&there.to_be_bytes());
    }
    Some(())
}
