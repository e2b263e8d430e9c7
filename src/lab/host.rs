//! One host of the lab: a network namespace with a thread of its own that lives in it.
//!
//! `setns(2)` and `unshare(2)` concern a thread, and a socket belongs to the namespace of the
//! thread that opened it. So whatever shall happen on a host is sent to the host's thread; a
//! program started there is born in the namespace.

use std::fs::{self, File};
use std::future::Future;
use std::os::fd::{AsRawFd, RawFd};
use std::panic::resume_unwind;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use rtnetlink::LinkUnspec;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::error::LabError;

/// The kernel gives the loopback device this number in every namespace.
const LOOPBACK: u32 = 1;

/// A namespace and its thread. Both end when this is dropped.
#[derive(Debug)]
pub struct Host {
    name: String,
    netns: File,
    runtime: Handle,
    netlink: rtnetlink::Handle,
    end: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What the thread hands out once it stands.
struct Ready {
    netns: File,
    runtime: Handle,
    netlink: rtnetlink::Handle,
}

impl Host {
    /// A new, empty namespace with its loopback device up.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub async fn start(name: &str) -> Result<Self, LabError> {
        let (ready_tx, ready) = oneshot::channel();
        let (end, end_rx) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name(format!("lab-{name}"))
            .spawn(move || match enter() {
                Ok((ready, runtime)) => {
                    let _ = ready_tx.send(Ok(ready));
                    let _ = runtime.block_on(end_rx);
                    runtime.shutdown_background();
                }
                Err(error) => {
                    let _ = ready_tx.send(Err(error));
                }
            })
            .map_err(LabError::io(format!("start the thread of {name}")))?;
        let ready = ready.await.expect("the thread answers once")?;
        let host = Self {
            name: name.to_owned(),
            netns: ready.netns,
            runtime: ready.runtime,
            netlink: ready.netlink,
            end: Some(end),
            thread: Some(thread),
        };
        host.netlink
            .link()
            .set(LinkUnspec::new_with_index(LOOPBACK).up().build())
            .execute()
            .await
            .map_err(LabError::network(format!("bring up loopback of {name}")))?;
        Ok(host)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Descriptor of the namespace, open as long as the host lives.
    pub fn netns(&self) -> RawFd {
        self.netns.as_raw_fd()
    }

    /// Routing messages to this host's kernel.
    pub const fn netlink(&self) -> &rtnetlink::Handle {
        &self.netlink
    }

    /// Where this host's work runs.
    pub(super) const fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Starts something on this host.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.runtime.spawn(future)
    }

    /// Does something on this host and waits for what comes of it.
    ///
    /// # Panics
    ///
    /// If the future does.
    pub async fn run<F>(&self, future: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        match self.spawn(future).await {
            Ok(output) => output,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                Err(error) => unreachable!("the thread of a living host ended: {error}"),
            },
        }
    }

    /// Writes a setting below `/proc/sys/net`, which shows each thread its own namespace. Whether
    /// it worked: an older kernel may lack the setting.
    pub async fn sysctl(&self, key: &'static str, value: &'static str) -> bool {
        self.run(async move { fs::write(format!("/proc/sys/net/{key}"), value).is_ok() })
            .await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn enter() -> Result<(Ready, Runtime), LabError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(LabError::errno("make a network namespace"))?;
    let netns = File::open("/proc/thread-self/ns/net")
        .map_err(LabError::io("open the namespace of this thread"))?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LabError::io("start a runtime"))?;
    let netlink = runtime
        .block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            tokio::spawn(connection);
            Ok(handle)
        })
        .map_err(LabError::io("open a netlink socket"))?;
    let ready = Ready {
        netns,
        runtime: runtime.handle().clone(),
        netlink,
    };
    Ok((ready, runtime))
}
