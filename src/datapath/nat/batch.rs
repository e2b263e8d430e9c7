//! Many entries of a hash map by one call of `bpf(2)`, which aya lacks. Hash maps have this since
//! Linux 5.6.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::Pod;
use aya::maps::MapData;

const LOOKUP: libc::c_long = 24;
const UPDATE: libc::c_long = 26;
const DELETE: libc::c_long = 27;

/// What a step of a walk found, and where it goes on: the kernel's number of the next bucket, which
/// stays what it is, since these maps do not grow. None: it is over.
pub(super) type Step<K, V> = (Vec<(K, V)>, Option<u32>);

/// `struct { .. } batch` of `union bpf_attr` (linux/bpf.h). The first four are addresses.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// A hash map, by its descriptor.
#[derive(Debug)]
pub(super) struct Batches<K, V> {
    fd: OwnedFd,
    entries: PhantomData<(K, V)>,
}

impl<K: Pod + Default, V: Pod + Default> Batches<K, V> {
    /// # Errors
    ///
    /// `InvalidInput` if the map's keys or values have another size; what the kernel said.
    pub(super) fn of(map: &MapData) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        let sizes = (info.key_size() as usize, info.value_size() as usize);
        if sizes != (size_of::<K>(), size_of::<V>()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self {
            fd: map.fd().as_fd().try_clone_to_owned()?,
            entries: PhantomData,
        })
    }

    /// The entries of the next buckets, about `most` of them.
    pub(super) fn walk(&self, from: Option<u32>, most: usize) -> io::Result<Step<K, V>> {
        let mut room = most.max(1);
        loop {
            match self.lookup(from, room) {
                // Not even one bucket fits.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => room *= 2,
                done => return done,
            }
        }
    }

    fn lookup(&self, from: Option<u32>, room: usize) -> io::Result<Step<K, V>> {
        let mut keys = vec![K::default(); room];
        let mut values = vec![V::default(); room];
        let (begin, mut next) = (from.unwrap_or(0), 0_u32);
        let mut attributes = self.attributes(room);
        if from.is_some() {
            attributes.in_batch = (&raw const begin) as u64;
        }
        attributes.out_batch = (&raw mut next) as u64;
        attributes.keys = keys.as_mut_ptr() as u64;
        attributes.values = values.as_mut_ptr() as u64;
        // SAFETY: the kernel reads a bucket's number from `begin`, writes one to `next`, and at
        // most `room` keys and values of the sizes that `of` compared; any bytes are a `Pod`.
        let done = unsafe { bpf(LOOKUP, &mut attributes) };
        let over = match done {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        let found = keys.into_iter().zip(values).take(attributes.count as usize);
        Ok((found.collect(), (!over).then_some(next)))
    }

    /// Adds entries or overwrites them, in order; ends at the first that does not fit.
    pub(super) fn update(&self, keys: &[K], values: &[V]) -> io::Result<()> {
        assert_eq!(keys.len(), values.len(), "a value for each key");
        let mut attributes = self.attributes(keys.len());
        attributes.keys = keys.as_ptr() as u64;
        attributes.values = values.as_ptr() as u64;
        // SAFETY: the kernel reads as many keys and values as both slices have, of the sizes that
        // `of` compared.
        unsafe { bpf(UPDATE, &mut attributes) }
    }

    /// Removes entries; what is absent is no error.
    pub(super) fn delete(&self, keys: &[K]) -> io::Result<()> {
        let mut rest = keys;
        while !rest.is_empty() {
            let mut attributes = self.attributes(rest.len());
            attributes.keys = rest.as_ptr() as u64;
            // SAFETY: the kernel reads as many keys as the slice has, of the size that `of`
            // compared.
            match unsafe { bpf(DELETE, &mut attributes) } {
                Ok(()) => break,
                // The kernel stops at one that is not there; it says how many it removed.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    rest = rest.get(attributes.count as usize + 1..).unwrap_or(&[]);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn attributes(&self, count: usize) -> Attributes {
        Attributes {
            count: u32::try_from(count).expect("a batch fits the memory of a map"),
            map_fd: self.fd.as_raw_fd().cast_unsigned(),
            ..Attributes::default()
        }
    }
}

/// # Safety
///
/// The addresses in the attributes are good for what the command does with so many entries.
unsafe fn bpf(command: libc::c_long, attributes: &mut Attributes) -> io::Result<()> {
    // SAFETY: the attributes have the size that is given; the rest is the caller's promise.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<Attributes>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
